import dataclasses
import io
import json
import shutil
import signal
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from rich.console import Console

from bmojo.cli.train import default_run_dir
from bmojo.data.mqar import MQARConfig
from bmojo.export import families, huggingface
from bmojo.layers.attention import AttentionConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.model import ModelConfig
from bmojo.multihost import Processes
from bmojo.training.checkpoints import Checkpoint, Checkpoints, restore_parameters
from bmojo.training.config import OptimizerConfig, Stage, TrainerConfig
from bmojo.training.experiment import Experiment
from bmojo.training.parameters import initialize, outline, split
from bmojo.training.run_dir import RunError
from bmojo.training.run_setup import RunSetup
from bmojo.training.warm_start import WarmStart, renamed
from tests.training.standin import CONFIG_TEXT, StandInConfig, run, task

TRAINER = TrainerConfig(
    log_every=2,
    eval_every=3,
    checkpoint_every=4,
    tensorboard=False,
    plots=False,
    compilation_cache=False,
)
MODEL = ModelConfig(20, 8, 1, (AttentionConfig(2, rope=True), MLPConfig(8)), False)
EMBEDDING, HEAD = "embedding.embedding", "head.kernel"
MIXER = "blocks.sublayers.0.mixer.heads.q_proj.kernel"


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    path = tmp_path_factory.mktemp("first")
    assert run(path, trainer=TRAINER).exit_code == 0
    return path


def parameters_of(path, step):
    shapes = outline(lambda: StandInConfig().make(nnx.Rngs(0)))[1]
    return restore_parameters(path / "checkpoints", shapes, step)[1]


def warm(source, **changes):
    return dataclasses.replace(TRAINER, init_from=str(source), **changes)


def metrics(path):
    return (Path(path) / "metrics.jsonl").read_bytes()


@pytest.mark.parametrize(
    ("name", "new"),
    [
        ("a.0.b", "a.0.b"),
        ("blocks.0.x", "blocks.2.x"),
        ("head.kernel", None),
        ("norm.scale", "last.scale"),
        ("norm.scale.more", "norm.scale.more"),
    ],
)
def test_patterns_of_names(name, new):
    pairs = (("blocks.0.*", "blocks.2.*"), ("head.*", None), ("norm.scale", "last.scale"))
    assert renamed(name, pairs) == new


def test_a_run_begins_from_another_and_resumes_without_it(first, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(first, source)
    trainer, text = warm(f"{source}@12", keep=9), io.StringIO()
    console = Console(file=text, width=200)
    assert run(tmp_path / "a", trainer=trainer, console=console).exit_code == 0
    assert f"init_from {source}, step 12: 4 parameters taken" in text.getvalue()
    assert "0 left out, 0 drawn anew" in text.getvalue()
    wanted = parameters_of(source, 12)
    begun = parameters_of(tmp_path / "a", 0)
    assert all(np.array_equal(begun[name], wanted[name]) for name in wanted)
    assert metrics(tmp_path / "a") != metrics(first)

    stopped = run(tmp_path / "b", 14, signal.SIGTERM, trainer=trainer)
    assert stopped.status == "interrupted" and 0 < stopped.step < 13
    shutil.rmtree(source)
    assert run(tmp_path / "b", trainer=trainer).exit_code == 0
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    with pytest.raises(RunError, match="no run is here"):
        run(tmp_path / "c", trainer=trainer)
    assert not (tmp_path / "c" / "config.gin").exists()


def test_parts_are_left_out_and_drawn_anew(first, tmp_path):
    names = (("in_proj.kernel", "q_proj.kernel"), ("q_proj.*", None))
    text = io.StringIO()
    options = {"trainer": warm(first, init_names=names, keep=9)}
    assert run(tmp_path / "a", console=Console(file=text, width=200), **options).exit_code == 0
    lines = text.getvalue()
    assert "3 parameters taken" in lines and "1 left out, 1 drawn anew" in lines
    assert "taken       q_proj.kernel [8, 8] from in_proj.kernel" in lines
    assert "left out    q_proj.kernel [8, 8]" in lines
    assert "drawn anew  in_proj.kernel [8, 8]" in lines
    old, new = parameters_of(first, 13), parameters_of(tmp_path / "a", 0)
    assert np.array_equal(new["q_proj.kernel"], old["in_proj.kernel"])
    assert not np.array_equal(new["in_proj.kernel"], old["in_proj.kernel"])
    drawn = initialize(lambda: StandInConfig().make(nnx.Rngs(TRAINER.seed)))
    assert np.array_equal(new["in_proj.kernel"], drawn["in_proj.kernel"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": StandInConfig(width=16)}, r"embedding.embedding is \[32, 8\] in .*leave it out"),
        ({"trainer": {"init_names": (("*", None),)}}, "has no parameter of this model"),
        (
            {"trainer": {"init_names": (("in_proj.*", "q_proj.*"),)}},
            "q_proj.kernel and in_proj.kernel both become q_proj.kernel",
        ),
        ({"trainer": {"init_from": "nowhere"}}, "nowhere: no run is here"),
        ({"trainer": {"init_from": "hf:nowhere"}}, "nowhere: no such folder"),
        ({"step": "@7"}, "no checkpoint of step 7; take one of 12, 13"),
        ({"step": "@best"}, "has no best evaluation"),
    ],
)
def test_what_does_not_fit_is_refused_before_the_run_begins(first, tmp_path, changes, words):
    trainer = warm(f"{first}{changes.get('step', '')}")
    trainer = dataclasses.replace(trainer, **changes.get("trainer", {}))
    options = {name: changes[name] for name in ("model",) if name in changes}
    with pytest.raises(Exception, match=words) as caught:
        run(tmp_path / "a", trainer=trainer, **options)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "a" / "config.gin").exists()


def test_the_best_checkpoint_is_found(first, tmp_path):
    shutil.copytree(first, tmp_path / "run")
    with open(tmp_path / "run" / "config.gin", "a") as file:
        file.write("Trainer.best = 'recall/loss'\n")
    rows = [json.loads(line) for line in metrics(first).splitlines()]
    rows = [r for r in rows if "evaluation" in r and r["group"] is None]
    best = min(rows, key=lambda r: r["loss"])["step"]
    if best not in (12, 13):
        shutil.copytree(first / "checkpoints" / "12", tmp_path / "run" / "checkpoints" / str(best))
    setup = RunSetup(
        Experiment(
            StandInConfig(), OptimizerConfig(), warm(f"{tmp_path / 'run'}@best"),
            (Stage(task(16, (2,)), 2, 2),),
        ),
        Processes(),
    )  # fmt: skip
    assert f"step {best}: 4 parameters taken" in WarmStart(setup).lines()[0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"init_names": (("a", None),)}, "no effect without Trainer.init_from"),
        ({"init_from": "x", "init_names": ("a",)}, "'a' is no pair"),
        ({"init_from": "x", "init_names": (("a*b*", None),)}, "has two"),
        ({"init_from": "x", "init_names": (("a", "b*"),)}, "the pattern has no"),
        ({"init_from": "hf:"}, "names nothing"),
        ({"extra_steps": -1}, "-1 is too small"),
    ],
)
def test_bad_bindings(options, words):
    with pytest.raises(ValueError, match=words):
        TrainerConfig(**options)


def setup_of(model, init_from):
    stage = Stage(MQARConfig(16, (2,), 20), 2, 2)
    trainer = dataclasses.replace(TRAINER, init_from=init_from, seed=1)
    experiment = Experiment(model, OptimizerConfig(), trainer, (stage,))
    return RunSetup(experiment, Processes())


def saved(folder, model):
    """A run of a model that was saved and not trained, and its parameters."""
    parameters = split(jax.jit(lambda: model.make(nnx.Rngs(5)))())[1]
    folder.mkdir()
    (folder / "config.gin").write_text("Model.norm_epsilon = 1e-06\nModel.logit_scale = None\n")
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(Checkpoint(3, parameters, {"count": np.ones(())}, {"data": None}))
    return parameters


@pytest.mark.parametrize("words", [12, 26])
def test_embeddings_of_other_sizes(words, tmp_path):
    there = saved(tmp_path / "run", dataclasses.replace(MODEL, vocab_size=words))
    setup = setup_of(MODEL, str(tmp_path / "run"))
    start, drawn = WarmStart(setup), setup.initialize()[0]
    found, both = start.parameters(drawn), min(words, 20)
    assert np.array_equal(found[EMBEDDING][:both], there[EMBEDDING][:both])
    assert np.array_equal(found[HEAD][:, :both], there[HEAD][:, :both])
    assert np.array_equal(found[EMBEDDING][both:], drawn[EMBEDDING][both:])
    assert np.array_equal(found[HEAD][:, both:], drawn[HEAD][:, both:])
    assert np.array_equal(found[MIXER], there[MIXER])
    assert not np.array_equal(drawn[MIXER], there[MIXER])
    assert any(f"{EMBEDDING} [{words}, 8] of [20, 8]" in line for line in start.lines())


def test_from_a_folder_of_hugging_face(tmp_path):
    parameters = split(jax.jit(lambda: MODEL.make(nnx.Rngs(5)))())[1]
    config = families.config_json(MODEL, parameters, 16)
    (tmp_path / "config.json").write_text(json.dumps(config))
    huggingface.write_weights(tmp_path, MODEL, parameters)
    other = dataclasses.replace(MODEL, norm_epsilon=1e-5)
    setup = setup_of(other, f"hf:{tmp_path}")
    start = WarmStart(setup)
    found = start.parameters(setup.initialize()[0])
    assert not start.anew and not start.left_out
    assert all(np.array_equal(found[name], x) for name, x in parameters.items())
    wanted = "differs     Model.norm_epsilon: 1e-06 there, 1e-05 here"
    assert [line.strip() for line in start.lines() if "differs" in line] == [wanted]


def test_a_finished_run_goes_on_as_if_it_had_been_longer(first, tmp_path):
    more = dataclasses.replace(TRAINER, extra_steps=5)
    text = CONFIG_TEXT + "Trainer.extra_steps = 5\n"
    assert run(tmp_path / "long", trainer=more, config_text=text).step == 18
    shutil.copytree(first, tmp_path / "first")
    result = run(tmp_path / "first", trainer=more, config_text=text)
    assert (result.status, result.step) == ("finished", 18)
    assert metrics(tmp_path / "first") == metrics(tmp_path / "long")
    assert (tmp_path / "first" / "config.gin").read_text() == text
    lines = [json.loads(line) for line in metrics(tmp_path / "first").splitlines()]
    rates = {x["step"]: x["learning_rate"] for x in lines if "learning_rate" in x}
    assert rates[14] == rates[18] == pytest.approx(OptimizerConfig().final_learning_rate)
    assert rates[12] > rates[14]
    tokens = {x["step"]: x["tokens"] for x in lines if "tokens" in x}
    assert tokens[18] - tokens[13] == 5 * 2 * 24  # of the last stage
    assert run(tmp_path / "first", trainer=more, config_text=text).step == 18
    assert task(24, (3,)).length == 24


def test_the_directory_of_a_run_that_goes_on(tmp_path):
    config = str(tmp_path / "config.gin")
    assert default_run_dir(config, [], ["Trainer.extra_steps=5"]) == tmp_path
    assert default_run_dir(config, [], ["Trainer.keep=5"]) != tmp_path
