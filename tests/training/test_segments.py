"""Truncated backpropagation: a sequence in several steps, its state carried, its gradient cut."""

import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import Batches, Segments
from bmojo.evaluation.recall import evaluate
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.model import ModelConfig
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.config import Evaluation, OptimizerConfig, TrainerConfig
from bmojo.training.experiment import Curriculum
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import flatten, outline, split, unflatten
from bmojo.training.run_dir import RunError
from bmojo.training.train_step import make_fresh_state, make_train_step
from tests.training.standin import StandInConfig, run

TASK = MQARConfig(length=24, num_pairs=(1, 2), vocab_size=32)
MODEL = ModelConfig(
    vocab_size=32,
    d_model=8,
    n_layers=1,
    pattern=(
        BMojoConfig(4, 2, 3, n_heads=1, fading=SelectiveSSMConfig(expand=1, d_state=2)),
        SelectiveSSMConfig(expand=1, d_state=2),
    ),
)
KEPT = TrainerConfig(
    segments_per_document=4, log_every=2, eval_every=3, checkpoint_every=4, tensorboard=False,
    plots=False,
)  # fmt: skip


def parts():
    return Segments(Batches(TASK.source(0, "train"), 3), 4)


def test_segments_are_consecutive_parts_of_batches():
    stream, whole = parts(), Batches(TASK.source(0, "train"), 3)
    for _ in range(2):
        within, four = [], []
        for _ in range(4):
            within.append(stream.within)
            four.append(next(stream))
        assert within == [False, True, True, True]
        batch = next(whole)
        for name in ("inputs", "targets"):
            np.testing.assert_array_equal(
                np.concatenate([part[name] for part in four], axis=1), batch[name]
            )
        assert all(np.array_equal(part["group"], batch["group"]) for part in four)


@pytest.mark.parametrize("done", range(9))
def test_a_position_between_segments_goes_on_with_the_next_one(done):
    stream = parts()
    for _ in range(done):
        next(stream)
    position = json.dumps(stream.get_state())
    expected = [next(stream) for _ in range(6)]
    resumed = parts()
    next(resumed)
    resumed.set_state(json.loads(position))
    assert resumed.within == bool(done % 4)
    assert json.dumps(resumed.get_state()) == position
    for batch in expected:
        again = next(resumed)
        assert all(np.array_equal(again[name], batch[name]) for name in batch)


def test_a_step_on_a_segment_is_a_step_on_the_whole_with_the_gradient_cut():
    """The second step equals one whose loss is computed over both segments, the first stopped."""
    model = MODEL.make(nnx.Rngs(0))
    structure, parameters = split(model)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=0), 9, structure.groups)
    batch = next(Batches(MQARConfig(16, (2,), 32).source(0, "train"), 2))
    halves = [
        {k: batch[k][:, part] for k in ("inputs", "targets")} for part in (slice(8), slice(8, 16))
    ]
    halves[0]["targets"] = np.full_like(halves[0]["targets"], -1)  # the first step leaves no trace
    step, state = make_train_step(structure, optimizer), optimizer.init(parameters)
    carried = make_fresh_state(structure)(parameters, 2, 16)

    def loss(parameters, cut):
        model = structure.merge(parameters)
        _, after = model(halves[0]["inputs"])
        targets = halves[1]["targets"]
        state = jax.lax.stop_gradient(after) if cut else after
        losses, _, _ = model.score(halves[1]["inputs"], targets, state)
        return losses.sum() / (targets >= 0).sum()

    norms = []
    for cut in (True, False):
        gradient = jax.jit(jax.grad(loss), static_argnums=1)(parameters, cut)
        norms.append(float(jnp.sqrt(sum(jnp.sum(g**2) for g in gradient.values()))))
    _, _, carried, _ = make_train_step(structure, optimizer)(
        jax.tree.map(jnp.copy, parameters), state, carried, halves[0]
    )
    *_, metrics = step(parameters, optimizer.init(parameters), carried, halves[1])
    assert abs(norms[0] - norms[1]) > 1e-3 * norms[0]
    np.testing.assert_allclose(metrics["grad_norm"], norms[0], rtol=1e-5)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_without_targets_carries_the_state_on_and_changes_nothing_else(accumulate):
    structure, parameters = split(MODEL.make(nnx.Rngs(0)))
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, warmup=0), 9, structure.groups)
    step = make_train_step(structure, optimizer, accumulate=accumulate)
    batch = next(Batches(MQARConfig(16, (2,), 32).source(0, "train"), 2))
    fields = {name: batch[name] for name in ("inputs", "targets")}
    state, fresh = optimizer.init(parameters), make_fresh_state(structure)
    parameters, state, carried, metrics = step(parameters, state, fresh(parameters, 2, 32), fields)
    assert metrics["count"] == (batch["targets"] >= 0).sum() > 0
    before = jax.tree.map(np.array, (parameters, state, carried))
    fields["targets"] = np.full_like(batch["targets"], -1)
    *after, metrics = step(parameters, state, carried, fields)
    assert metrics["count"] == 0 == metrics["loss"]
    for one, other in zip(*map(jax.tree.leaves, (before[:2], after[:2])), strict=True):
        np.testing.assert_array_equal(one, other)
    moved = zip(*map(jax.tree.leaves, (before[2], after[2])), strict=True)
    assert any((one != other).any() for one, other in moved)


def test_means_and_learning_rates_are_of_the_steps_with_targets(tmp_path):
    """A sequence of MQAR begins with pairs: its first segment has no target."""
    lines = {}
    for every in (1, 4):
        trainer = TrainerConfig(
            segments_per_document=4, log_every=every, eval_every=0, tensorboard=False, plots=False
        )
        assert run(tmp_path / str(every), trainer=trainer).exit_code == 0
        text = (tmp_path / str(every) / "metrics.jsonl").read_text().splitlines()
        lines[every] = [r for r in map(json.loads, text) if "evaluation" not in r]
    losses = [line["loss"] for line in lines[1]]
    assert losses[0] is None and losses[4] is None and 0 not in losses
    for index in (0, 1):
        some = [x for x in losses[4 * index : 4 * index + 4] if x is not None]
        assert min(some) <= lines[4][index]["loss"] <= max(some)
    rates = [line["learning_rate"] for line in lines[1]]
    steady = [one == other for one, other in zip(rates, rates[1:], strict=False)]
    assert steady[3] and losses[4] is None, "the step of a first segment is no update"


@pytest.mark.parametrize("model", [MODEL, StandInConfig()], ids=["bmojo", "standin"])
def test_evaluation_in_segments_measures_the_same(model):
    made = model.make(nnx.Rngs(0))
    whole, cut = (
        evaluate(made, [Evaluation("recall", TASK, 2, 4, segments_per_document=segments)])
        for segments in (1, 4)
    )
    for one, other in zip(whole, cut, strict=True):
        assert one["group"] == other["group"] and one["count"] == other["count"]
        assert one["accuracy"] == other["accuracy"]
        np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)


@pytest.mark.slow
def test_interrupted_while_it_reads_the_metrics_are_the_same_to_the_byte(tmp_path):
    options = {"trainer": KEPT}
    assert run(tmp_path / "straight", **options).exit_code == 0
    expected = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    # Example 8 begins the third sequence of the first stage, read while step 8 runs.
    for example in (4, 8, 9):
        path = tmp_path / str(example)
        outcome = run(path, example, signal.SIGTERM, **options)
        assert outcome.status == "interrupted" and outcome.step < 13, example
        assert run(path, **options).exit_code == 0
        assert (path / "metrics.jsonl").read_bytes() == expected


def test_interrupted_at_nearly_every_step_nothing_changes(tmp_path, monkeypatch):
    options = {"trainer": KEPT}
    run(tmp_path / "straight", **options)
    expected = (tmp_path / "straight" / "metrics.jsonl").read_bytes()
    from bmojo.training.report import Status

    honest = Status.update

    def stopping(status, step, *rest):
        if step >= next_stop:
            signal.raise_signal(signal.SIGTERM)
        return honest(status, step, *rest)

    monkeypatch.setattr(Status, "update", stopping)
    reached = [0]
    while reached[-1] < 13:
        next_stop = reached[-1] + 1
        reached.append(run(tmp_path / "again", **options).step)
    assert sum(step % 4 != 0 for step in reached) > 4
    monkeypatch.undo()
    assert run(tmp_path / "again", **options).exit_code == 0
    assert (tmp_path / "again" / "metrics.jsonl").read_bytes() == expected


def test_a_carried_state_is_saved_to_the_bit(tmp_path):
    structure, parameters = split(MODEL.make(nnx.Rngs(0)))
    optimizer = make_optimizer(OptimizerConfig(), 9, structure.groups)
    state = optimizer.init(parameters)
    fresh = make_fresh_state(structure)
    tokens = np.arange(14).reshape(2, 7)
    _, carried = structure.merge(parameters)(tokens, fresh(parameters, 2, 16))
    with Checkpoints(tmp_path) as kept:
        kept.save(Checkpoint(3, parameters, state, {"part": 1}, flatten(carried)))
        kept.wait()
    _, shapes = outline(lambda: MODEL.make(nnx.Rngs(0)))
    expected = jax.eval_shape(lambda p: flatten(fresh(p, 2, 16)), shapes)
    with Checkpoints(tmp_path) as kept:
        restored, warnings = kept.restore(
            shapes, jax.eval_shape(optimizer.init, shapes), lambda meta: expected
        )
    assert not warnings
    back = unflatten(fresh(parameters, 2, 16), restored.carried)
    assert jax.tree.structure(back) == jax.tree.structure(carried)
    for one, other in zip(*map(jax.tree.leaves, (back, carried)), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_memory_of_a_step_is_that_of_a_segment():
    """Temporary memory of a step is the same whether the document has 2 or 256 segments."""
    structure, parameters = split(MODEL.make(nnx.Rngs(0)))
    optimizer = make_optimizer(OptimizerConfig(), 9, structure.groups)
    batch = {name: np.zeros((1, 16), np.int32) for name in ("inputs", "targets")}
    sizes = []
    for length in (32, 4096):
        carried = make_fresh_state(structure)(parameters, 1, length)
        step = make_train_step(structure, optimizer)
        program = step.lower(parameters, optimizer.init(parameters), carried, batch).compile()
        analysis = program.memory_analysis()
        sizes.append(analysis.temp_size_in_bytes + analysis.argument_size_in_bytes)
    assert sizes[0] == sizes[1]


def test_a_plan_counts_steps_tokens_and_examples():
    from bmojo.training.config import Stage

    plan = Curriculum((Stage(TASK, 7, 3), Stage(TASK, 5, 2)), 4)
    assert (plan.total, plan.begin(1)) == (12, 7)
    assert [plan.examples(stage) for stage in (0, 1)] == [0, 6]
    assert [plan.tokens(step) for step in (0, 1, 8)] == [0, 18, 7 * 18 + 12]


def test_segments_must_divide_the_length(tmp_path):
    with pytest.raises(RunError, match=r"Trainer.segments_per_document: 5 does not divide the 16"):
        run(tmp_path, trainer=TrainerConfig(segments_per_document=5))
    with pytest.raises(ValueError, match=r"Evaluation.segments_per_document: 5 does not divide"):
        Evaluation("recall", TASK, segments_per_document=5)
