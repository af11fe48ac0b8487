"""Models of equal size, and that a wrong one is seen."""

import dataclasses

import numpy as np
import pytest

from bmojo.benchmark import decoding, steps
from bmojo.benchmark.models import MODELS, Dimensions, check_segments, choose
from bmojo.benchmark.rounds import quantiles, take_turns
from bmojo.benchmark.steps import conclude_lengths, length_cases
from bmojo.errors import UserError
from bmojo.layers.attention import Attention
from bmojo.layers.ssd import SSDConfig
from bmojo.ops.selection import InnovationSelection


def test_models_have_equal_parameters_and_the_wanted_sizes():
    dimensions = Dimensions(width=128, layers=4)
    chosen = {model.name: model for model in choose(MODELS, dimensions)}
    assert list(chosen) == list(MODELS)
    for model in chosen.values():
        assert model.parameters == pytest.approx(dimensions.target, rel=0.02)
        assert model.config.d_model == 128 and model.config.vocab_size == 256
    layer = chosen["bmojo_ssd"].config.pattern[0]
    assert isinstance(layer.fading, SSDConfig)
    assert (layer.window, layer.num_fading, layer.num_eidetic) == (512, 16, 64)
    assert chosen["bmojo_f"].config.pattern[0].num_eidetic == 0


@pytest.mark.parametrize(
    ("names", "changes", "error"),
    [
        (["bmojoo"], {}, "no config file 'models/bmojoo.gin'; did you mean"),
        (["bmojo"], {"parameters": 50}, "parameters: 50 is below"),
        (["bmojo"], {"num_fading": 9, "window": 4}, "BMojo.num_fading: at most window"),
        (["transformer"], {"width": 15}, "n_heads"),
    ],
)
def test_what_cannot_be_made_is_told(tiny, names, changes, error):
    with pytest.raises(UserError, match=error):
        choose(names, dataclasses.replace(tiny, **changes))


def test_overrides_reach_every_model(tiny):
    (model,) = choose(["bmojo"], tiny, ["BMojo.span=2"])
    assert model.config.pattern[0].span == 2


def test_the_layer_is_its_reference_and_a_wrong_selection_is_seen(tiny, monkeypatch):
    (model,) = choose(["bmojo"], tiny)
    (check,) = steps.check_reference(model)
    assert check.passed
    assert steps.check_reference(choose(["swa"], tiny)[0]) == []
    update = InnovationSelection.update

    def least(self, state, score, *rest):
        return update(self, state, score.max() - score, *rest)

    monkeypatch.setattr(InnovationSelection, "update", least)
    (check,) = steps.check_reference(model)
    assert not check.passed


def test_forms_agree_and_a_wrong_window_is_seen(tiny, monkeypatch):
    models = choose(["swa"], tiny)
    assert check_segments(models[0], 64).passed
    call = Attention.__call__

    def forgetful(self, u, state=None, *rest, **more):
        if state is not None:
            past = dataclasses.replace(state.past, k=state.past.k * 0)
            state = dataclasses.replace(state, past=past)
        return call(self, u, state, *rest, **more)

    monkeypatch.setattr(Attention, "__call__", forgetful)
    check = check_segments(models[0], 64)
    assert not check.passed and check.difference > 1e-3


@pytest.mark.slow
def test_a_step_trains(tiny):
    (model,) = choose(["swa"], tiny)
    (case,), (check,) = steps.step_cases([model], 1, 11, None)
    assert check.passed
    assert check.what.startswith("loss of the first step")
    assert case.flops == 3 * 11 * model.flops(11)
    assert case.temporary_bytes > 0 and case.compile_seconds > 0
    training = case.run.__self__
    first, before = training.loss, dict(training._parameters)
    case.run()
    assert first == training.loss, "the loss that is checked is that of the first step"
    assert all(value.is_deleted() for value in before.values()), "buffers are donated"


def test_a_layer_of_a_pattern_of_two_counts_half(tiny):
    (case,), (check,) = steps.layer_cases(choose(["hybrid"], tiny), 1, 11, None)
    assert check.passed and case.units == 2
    case.run()


@pytest.mark.slow
def test_segments_start_from_the_same_state_every_time(tiny):
    cases, checks = length_cases(choose(["swa"], tiny), [16], 8)
    assert all(check.passed for check in checks)
    assert [case.group for case in cases] == [
        "swa, whole sequences",
        "swa, last segment of 8 tokens",
    ]
    assert [case.facts["tokens in a step"] for case in cases] == [16, 8]
    assert cases[1].temporary_bytes < cases[0].temporary_bytes
    run = cases[1].run
    (training,) = (c.cell_contents for c in run.__closure__ if hasattr(c.cell_contents, "step"))
    positions = []
    for _ in range(2):
        assert run() > 0
        positions.append(int(np.asarray(training.carried.blocks[0].positions.position).max()))
    assert positions == [16, 16]


def test_conclusions_name_growth():
    from bmojo.benchmark.results import Row

    def row(length, seconds, memory):
        facts = {"length": length}
        return Row(
            "x", "bmojo, whole sequences", quantiles([seconds]), None, None, None, memory,
            None, None, None, None, 1, (seconds,), facts,
        )  # fmt: skip

    (note,) = conclude_lengths([row(64, 1.0, 10), row(128, 2.0, 10)])
    assert "time of a step is linear (length^1.00), temporary memory constant" in note


@pytest.mark.slow
def test_decoding(tiny):
    transformer, windowed = choose(["transformer", "swa"], tiny)
    checks = decoding.check_decoding(windowed)
    assert len(checks) == 3 and all(check.passed for check in checks)
    cases = decoding.decode_cases([transformer], [5, 20], 2, 1, "transformer")
    assert [case.name for case in cases] == ["transformer", "transformer, a call a token"] * 2
    assert [case.facts["position"] for case in cases] == [5, 5, 20, 20]
    assert all(case.baseline == "transformer" for case in cases)
    grown = cases[2].facts["state bytes"] - cases[0].facts["state bytes"]
    assert grown == 15 * 2 * 2 * 16 * 4, "keys and values of each layer"
    samples, calls = take_turns(cases, 1)
    assert calls == [1] * 4 and all(len(taken) == 1 for taken in samples)


def test_a_wrong_decoder_is_seen(tiny, monkeypatch):
    (model,) = choose(["swa"], tiny)
    right = decoding.decode
    for wrong in (0, 1):
        # The loop, then single calls.
        def decode(*given, advance, wrong=wrong, **options):
            steps = right(*given, advance=advance, **options)
            return iter(np.zeros((8, 1), int)) if (advance is None) == (wrong == 0) else steps

        monkeypatch.setattr(decoding, "decode", decode)
        checks = decoding.check_decoding(model)
        assert [check.passed for check in checks[1:]] == [wrong == 1, wrong == 0]
        assert "largest logits" in checks[1 + wrong].what
