"""A folder in which everything is right.

books/ holds text, prepared/ what was prepared from it, bpe.json a tokenizer and other/ the text
prepared with it, run/ and prose/ runs of tiny.gin and prose.gin after the first of two steps.
"""

import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from bmojo.data.pipeline import Batches, Segments
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.tokenizers import keep_tokenizer, train_tokenizer
from bmojo.experiment import load
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.experiment import run_tokenizer
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import initialize, outline
from tests.mistakes.plant import write

TINY = """\
Experiment.model = @Model()
Experiment.optimizer = @Optimizer()
Experiment.trainer = @Trainer()
Experiment.curriculum = (@Stage(),)
Experiment.evaluations = (@Evaluation(),)
Model.vocab_size = 32
Model.d_model = 8
Model.n_layers = 1
Model.pattern = (@Attention(), @MLP())
Attention.n_heads = 2
Stage.data = @MQAR()
Stage.steps = 2
Stage.batch_size = 2
MQAR.vocab_size = 32
MQAR.length = 16
MQAR.num_pairs = (2,)
Evaluation.name = 'recall'
Evaluation.data = @MQAR()
Evaluation.batches = 1
Evaluation.batch_size = 2
Trainer.tensorboard = False
Trainer.compilation_cache = False
Trainer.plots = False
"""
PROSE = """\
include 'tiny.gin'
Model.vocab_size = 300
Stage.data = @train/Text()
Evaluation.data = @test/Text()
Evaluation.name = 'loss'
Text.path = 'prepared'
Text.length = 16
train/Text.align = 1
test/Text.align = 1
"""


def begin_run(config, folder):
    """A run directory as training leaves it after its first step."""
    experiment, text = load(config)
    stage, trainer = experiment.curriculum[0], experiment.trainer
    _, shapes = outline(make := lambda: experiment.model.make(nnx.Rngs(0)))
    optimizer = make_optimizer(experiment.optimizer, stage.steps, outline(make)[0].groups)
    batches = Segments(Batches(stage.data.source(trainer.seed, "train"), stage.batch_size))
    next(batches)
    meta = {
        "stage": 0, "data": batches.get_state(), "window": [], "skipped": 0, "seed": 0,
        "seconds": 0.0, "compile_seconds": 0.0, "config": text,
    }  # fmt: skip
    state = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, shapes)
    )
    folder.mkdir()
    (folder / "config.gin").write_text(text)
    for name in ("metrics.jsonl", "speed.jsonl"):
        (folder / name).touch()
    keep_tokenizer(run_tokenizer(experiment), folder)
    with Checkpoints(folder / "checkpoints") as checkpoints:
        checkpoints.save(Checkpoint(1, initialize(make), state, meta))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A folder in which everything is right."""
    folder = tmp_path_factory.mktemp("world")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write("tiny.gin", TINY)()
        write("prose.gin", PROSE)()
        for number in range(12):
            write(f"books/{number}.txt", f"book {number} " * 40)()
        write("bpe.json", train_tokenizer(iter(["a book"]), 257))()
        options = {"validation": 0.2, "test": 0.2}
        prepare(Request("books", **options), "prepared")
        prepare(Request("books", "tokenizers:bpe.json", **options), "other")
        begin_run("tiny.gin", Path("run"))
        begin_run("prose.gin", Path("prose"))
    return folder


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of it as the working directory, without a network."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))

    def load_dataset(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))
