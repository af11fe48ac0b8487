"""What a user of the command line can get wrong, and the one line that says so.

A case is a name, what is planted in the folder of :func:`world`, the command, and the error;
`...` stands for any text. Mistakes inside a config have a table of their own in
``test_bad_configs.py``; here each kind stands once, to see that nothing was begun.
"""

import re
import shlex
import shutil
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from bmojo.cli import app
from bmojo.data.pipeline import Batches, Segments
from bmojo.data.text.prepare import Request, prepare
from bmojo.data.text.tokenizers import train_tokenizer
from bmojo.experiment import load
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import initialize, outline

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
SWEEP = "Sweep.configs = ('tiny.gin',)\n"
"""Everything else in the folder: books/ (text), prepared/ (from it), bpe.json and other/ (with
it), run/ and prose/ (runs of the configs after the first of two steps)."""


def write(path, content=""):
    def plant():
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_bytes(content if isinstance(content, bytes) else content.encode())

    return plant


def array(path, *values):
    return lambda: np.save(path, np.array(values))


def table(path, column):
    def plant():
        import pyarrow
        from pyarrow import parquet

        parquet.write_table(pyarrow.table({column: ["a"]}), path)

    return plant


def edit(path, old, new):
    def plant():
        content = Path(path).read_text()
        assert old in content
        Path(path).write_text(content.replace(old, new))

    return plant


def remove(pattern):
    def plant():
        for path in list(Path().glob(pattern)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return plant


def cut(pattern):
    return lambda: [path.write_bytes(path.read_bytes()[:100]) for path in Path().glob(pattern)]


def link(path, target):
    def plant():
        Path(path).parent.mkdir(exist_ok=True)
        Path(path).symlink_to(target)

    return plant


def swap(one, other):
    def plant():
        shutil.rmtree(one)
        shutil.copytree(other, one)

    return plant


def nothing():
    pass


PREPARE = {
    "no such source": (
        nothing, "data prepare nowhere --out out",
        "nowhere: no such file or folder; give one, or 'stdlib', or hf:NAME ..."),
    "empty folder": (
        lambda: Path("empty").mkdir(), "data prepare empty --out out",
        "empty: no file ending in .txt, .jsonl, .parquet in it; name the ending with --suffix"),
    "empty files": (
        write("empty/a.txt"), "data prepare empty --out out",
        "empty: no text to train on (its documents are empty); give more text, or lower ..."),
    "unknown kind of file": (
        write("in/a.md", "text"), "data prepare in --out out",
        "in: no file ending in .txt, .jsonl, .parquet in it; name the ending with --suffix"),
    "packed file": (
        write("a.jsonl.gz", b"\x1f\x8b"), "data prepare a.jsonl.gz --out out",
        "a.jsonl.gz: .gz files are not read; unpack it to .txt, .jsonl, .parquet"),
    "wrong encoding": (
        write("a.txt", b"one\nth\xe9\n"), "data prepare a.txt --out out",
        "a.txt:2: not UTF-8 (byte 0xe9, ...); mend it, or leave it out with --skip-corrupt"),
    "file that cannot be read": (
        link("in/a.txt", "nowhere"), "data prepare in --out out",
        "in/a.txt: cannot be read (No such file or directory); mend it, or take it away"),
    "corrupt JSON line": (
        write("a.jsonl", '{"text": "x"}\n{"text"\n'), "data prepare a.jsonl --out out",
        "a.jsonl:2: not JSON (...); mend it, or leave it out with --skip-corrupt"),
    "JSON lines without the field": (
        write("a.jsonl", '{"body": "x"}\n'), "data prepare a.jsonl --out out",
        "a.jsonl:1: no field 'text'; it has 'body'; mend it, or ..."),
    "table without the column": (
        table("a.parquet", "body"), "data prepare a.parquet --out out",
        "a.parquet: no column 'text'; choose one of body with --field"),
    "no table": (
        write("a.parquet", "no"), "data prepare a.parquet --out out",
        "a.parquet: not Parquet (...); mend it, or leave it out with --skip-corrupt"),
    "data set out of reach": (
        nothing, "data prepare hf:books --out out",
        "hf:books: the data set cannot be loaded (ConnectionError: offline); check its name ..."),
    "data set without a name": (
        nothing, "data prepare hf: --out out",
        "hf:: names no data set; write hf:NAME, hf:NAME:CONFIG:SPLIT"),
    "fraction": (
        nothing, "data prepare books --out out --validation 1.5",
        "--validation: 1.5 is not a fraction; give one from 0 to below 1"),
    "nothing to train on": (
        nothing, "data prepare books --out out --validation 0.5 --test 0.5",
        "--validation, --test: nothing is left to train on; lower them"),
    "out is a file": (
        nothing, "data prepare books --out tiny.gin",
        "tiny.gin: the directory cannot be written (File exists); choose another"),
    "out holds other things": (
        nothing, "data prepare books --out books",
        "books: holds '0.txt' and no prepared text; choose a new directory with --out"),
    "out holds other text": (
        nothing, "data prepare books --out prepared --validation 0.2 --test 0.2 --field body",
        "prepared: holds other text (field is 'text' there and 'body' now); choose another ..."),
    "unknown tokenizer": (
        nothing, "data prepare books --out out --tokenizer byte",
        "tokenizer: 'byte' is unknown; did you mean 'bytes'?"),
    "no SentencePiece model": (
        nothing, "data prepare books --out out --tokenizer sentencepiece:tiny.gin",
        "tiny.gin: no usable sentencepiece file (it holds no SentencePiece model); give another "
        "one"),
    "broken tokenizer": (
        write("bad.json", "{"), "data prepare books --out out --tokenizer tokenizers:bad.json",
        "bad.json: no usable tokenizers file (...); give another one"),
    "tokenizer is a folder": (
        nothing, "data train-tokenizer books --vocab-size 300 --out books",
        "--out: books is a folder; name a file in it, as books/bpe.json"),
    "tokenizer too small": (
        nothing, "data train-tokenizer books --vocab-size 10 --out new.json",
        "--vocab-size: 10 does not hold the 256 bytes and the end of a document; give at ..."),
    "tokenizer of nothing": (
        write("empty/a.txt"), "data train-tokenizer empty --vocab-size 300 --out new.json",
        "tokenizer: there is no text to learn from; give sources with some"),
}  # fmt: skip

PREPARED = {
    "no prepared text": (
        nothing, "data show books",
        "books: no prepared text is here; bmojo data prepare SOURCE --out books"),
    "a file": (
        nothing, "data show tiny.gin",
        "tiny.gin: is a file; name the directory of prepared text"),
    "missing shard": (
        remove("prepared/train*.array_record"), "data check prepared",
        "prepared/train-00000.array_record: the shard is missing; put it back, or delete prepared "
        "and prepare the text again"),
    "truncated shard": (
        cut("prepared/train*.array_record"), "data check prepared",
        "prepared/train-00000.array_record: not what the manifest says (100 bytes instead of "
        "...); put the old file back, or delete prepared and prepare the text again"),
    "changed manifest": (
        edit("prepared/manifest.json", '"documents": ', '"documents": 1'), "data show prepared",
        "prepared/manifest.json: was changed by hand; put it back, or delete prepared and ..."),
    "broken manifest": (
        write("prepared/manifest.json", "[]"), "data show prepared",
        "prepared/manifest.json: not readable as a manifest; put it back, or delete prepared ..."),
    "manifest of a newer version": (
        edit("prepared/manifest.json", '"format": 1', '"format": 2'), "data show prepared",
        "prepared/manifest.json: has format 2, this version reads 1; use the version that wrote "
        "it, or delete prepared and prepare the text again"),
    "interrupted": (
        remove("prepared/manifest.json"), "data show prepared",
        "prepared: its preparation was interrupted; the same command goes on"),
}  # fmt: skip

TRAIN = {
    "no such config": (
        nothing, "train nowhere.gin",
        "command line: no config file 'nowhere.gin'; looked in ..."),
    "no config": (
        nothing, "train ''",
        "CONFIG: '' names no file; give a gin file"),
    "a run for a config": (
        nothing, "train run",
        "command line: 'run' is a folder; write 'run/config.gin'"),
    "config in another encoding": (
        write("a.gin", b"Model.d_model = '\xe9'"), "train a.gin",
        "a.gin: cannot be read (it is not UTF-8); give a gin file"),
    "unknown task": (
        nothing, "train tiny.gin Stage.data=@MQRA()",
        "command line: Stage.data=@MQRA(): Stage.data: nothing is called 'MQRA'; did you mean "
        "'MQAR'?"),
    "unknown mixer": (
        nothing, "train tiny.gin 'Model.pattern=(@Attenton(), @MLP())'",
        "command line: ...: Model.pattern: nothing is called 'Attenton'; did you mean "
        "'Attention'?"),
    "length": (
        nothing, "train tiny.gin MQAR.length=0",
        "command line: MQAR.length=0: MQAR.length: 0 is too small; give at least 1"),
    "too many pairs": (
        nothing, "train tiny.gin MQAR.num_pairs=(5,)",
        "tiny.gin:15: MQAR.length: 5 pairs shown 1 times and queried once need 20 tokens, got "
        "16; raise length to 20 or lower num_pairs"),
    "too few keys": (
        nothing, "train tiny.gin MQAR.vocab_size=4",
        "command line: MQAR.vocab_size=4: MQAR.vocab_size: 4 tokens hold 1 keys, fewer than the "
        "2 pairs; raise vocab_size to 6 or lower num_pairs"),
    "vocabulary too small": (
        nothing, "train tiny.gin Model.vocab_size=16",
        "tiny.gin:4: Experiment.curriculum: its data have 32 tokens, the model only 16; raise "
        "Model.vocab_size"),
    "empty curriculum": (
        nothing, "train tiny.gin Experiment.curriculum=()",
        "command line: ...: Experiment.curriculum: needs at least one stage"),
    "stage of no steps": (
        nothing, "train tiny.gin Stage.steps=0",
        "command line: Stage.steps=0: Stage.steps: 0 is too small; give at least 1"),
    "negative learning rate": (
        nothing, "train tiny.gin Optimizer.learning_rate=-1.0",
        "command line: ...: Optimizer.learning_rate: -1.0 is out of range; give a number above 0"),
    "unknown schedule": (
        nothing, "train tiny.gin Optimizer.schedule=cosin",
        "command line: ...: Optimizer.schedule: 'cosin' is unknown; choose one of 'cosine', "
        "'linear', 'constant'; did you mean 'cosine'?"),
    "heads that do not divide": (
        nothing, "train tiny.gin Attention.n_heads=3",
        "command line: ...: Attention.n_heads: must divide d_model = 8, got 3"),
    "slots without a window": (
        nothing, "train tiny.gin 'Model.pattern=(@BMojo(), @MLP())' BMojo.window=0",
        "command line: BMojo.window=0: BMojo.window: slots need a window of at least 1; or set "
        "them to 0"),
    "segments that do not divide": (
        nothing, "train tiny.gin Trainer.segments_per_document=3",
        "Trainer.segments_per_document: 3 does not divide the 16 tokens of MQARConfig; give a "
        "divisor, or another length"),
    "seed beyond JAX": (
        nothing, "train tiny.gin --seed 4294967296",
        "command line: ...: Trainer.seed: 4294967296 is too large; give at most 4294967295"),
    "no example of a split": (
        nothing, "train tiny.gin 'Stage.data=@SelectiveCopying()' SelectiveCopying.length=4 "
        "'SelectiveCopying.num_tokens=(1,)' SelectiveCopying.vocab_size=6 "
        "SelectiveCopying.noise_vocab=3",
        "SelectiveCopying.vocab_size: too few different examples are possible to have some in "
        "the train split; raise vocab_size"),
    "no such text": (
        remove("prepared"), "train prose.gin",
        "Text.path: prepared: there is nothing here; prepare it with bmojo data prepare SOURCE "
        "--out prepared"),
    "vocabulary below the tokenizer's": (
        nothing, "train prose.gin Text.vocab_size=100",
        "Text.vocab_size: 100 tokens do not hold the 257 of the tokenizer of prepared; raise it "
        "to 257"),
    "text shorter than a window": (
        nothing, "train prose.gin train/Text.length=100000",
        "Text.length: the split 'train' of prepared has ... tokens, fewer than a window of "
        "100000; lower Text.length, or prepare more text"),
    "evaluation longer than its text": (
        nothing, "train prose.gin Evaluation.batches=1000",
        "Evaluation.batches: 'loss' asks for 1000 batches of 2, its data have ... examples; "
        "lower batches or batch_size, or give more data"),
    "a shard of the text is missing": (
        remove("prepared/train*.array_record"), "train prose.gin",
        "prepared/train-00000.array_record: the shard is missing; put it back, or ..."),
    "run directory is a file": (
        nothing, "train tiny.gin --run-dir prose.gin",
        ".../prose.gin: the run directory cannot be written (File exists); choose another with "
        "--run-dir"),
}  # fmt: skip

RESUME = {
    "changed config": (
        nothing, "train tiny.gin --run-dir run Stage.steps=3",
        ".../run/config.gin:...: the run there has 'Stage.steps = 2', this config has "
        "'Stage.steps = 3'; choose another directory with --run-dir, or start over with --fresh"),
    "no config": (
        remove("run/config.gin"), "train tiny.gin --run-dir run",
        ".../run: there is a run but no config.gin to tell which; choose another directory ..."),
    "unreadable config": (
        write("run/config.gin", b"\xff"), "train tiny.gin --run-dir run",
        ".../run/config.gin: cannot be read (it is not UTF-8); put it back, or start over with "
        "--fresh"),
    "unreadable summary": (
        write("run/summary.json", "[]"), "train tiny.gin --run-dir run",
        ".../run/summary.json: has no 'status'; delete it, and the run goes on from its last "
        "checkpoint"),
    "broken checkpoint": (
        remove("run/checkpoints/1/parameters"), "train tiny.gin --run-dir run",
        ".../run/checkpoints: no checkpoint can be read; the newest, of step 1: ...; start over "
        "with --fresh, or use the code version of summary.json"),
    "changed text": (
        swap("prepared", "other"), "train prose.gin --run-dir prose",
        "data: they are not those that the run was started with (another fingerprint); put the "
        "former data back, or start over with --fresh"),
}  # fmt: skip

EVALUATE = {
    "no run": (
        nothing, "eval books",
        "books: no run is here (no config.gin); train one with bmojo train"),
    "no checkpoint": (
        remove("run/checkpoints"), "eval run",
        ".../run/checkpoints: there are no checkpoints; train first with bmojo train"),
    "another model": (
        nothing, "eval run Model.d_model=16",
        ".../run/checkpoints: the checkpoint of step 1 does not fit the model: parameter "
        "embedding.embedding is [32, 8] in the checkpoint, [32, 16] in the model; use the "
        "config.gin and the code of that run"),
    "another tokenizer": (
        swap("prepared", "other"), "eval prose",
        "prose: its model was trained with another tokenizer than tokenizers:prepared/"
        "tokenizer.json of the text at Text.path; put the former text back, or name text "
        "prepared with that tokenizer"),
    "unknown evaluation": (
        nothing, "eval run 'Experiment.evaluations=(@Evalution(),)'",
        "command line: ...: nothing is called 'Evalution'; did you mean 'Evaluation'?"),
    "no evaluations": (
        nothing, "eval run Experiment.evaluations=()",
        "run: its config has no evaluations; add one, such as ..."),
    "perplexity without text": (
        nothing, "eval run --eval perplexity",
        "documents: the run's data are no documents; name a folder of ... with --documents"),
    "recall of text": (
        nothing, "eval prose --eval recall",
        "--eval recall: the evaluation 'loss' reads text, in which there are no pairs to recall; "
        "take --eval perplexity, or evaluate a synthetic task"),
    "no documents": (
        lambda: Path("empty").mkdir(), "eval prose --eval perplexity --documents empty",
        "empty: no documents are here; give a folder of .txt, .jsonl, .parquet or .npy files"),
    "empty documents": (
        write("empty/a.txt"), "eval prose --eval perplexity --documents empty",
        "empty: its documents are empty; give some with text"),
    "ids beyond the vocabulary": (
        array("a.npy", 1, 999), "eval prose --eval perplexity --documents a.npy",
        "a.npy: 999 is not a token of this model; give ids of 0 .. 299"),
    "pickled objects": (
        write("a.npy", b"\x80\x04N."), "eval prose --eval perplexity --documents a.npy",
        "a.npy: cannot be read as an array of numbers; write it with numpy.save"),
    "no harness tasks": (
        nothing, "eval prose --eval harness --tasks books",
        "books: no tasks are here; give a folder of the harness's YAML files"),
}  # fmt: skip

GENERATE = {
    "no run": (
        nothing, "generate books --prompt a",
        "books: no run is here (no config.gin); train one with bmojo train"),
    "another tokenizer": (
        swap("prepared", "other"), "generate prose --prompt a",
        "prose: its model was trained with another tokenizer than ...; put the former text back, "
        "or ..."),
    "text for a task without": (
        nothing, "generate run --prompt a",
        '--prompt: the run was trained on a task without text; give token ids with --ids "1 2 3"'),
    "no prompt": (
        nothing, "generate run --ids ''",
        "--ids: it is empty; give at least one token id"),
    "ids beyond the vocabulary": (
        nothing, "generate run --ids '1 32'",
        "prompt: 32 is not a token of this model; ids are 0 .. 31"),
    "missing prompt file": (
        nothing, "generate prose --file nowhere.txt",
        "--file: nowhere.txt cannot be read as UTF-8 text (No such file or directory); give "
        "another file"),
    "prompt file in another encoding": (
        write("a.txt", b"\xe9"), "generate prose --file a.txt",
        "--file: a.txt cannot be read as UTF-8 text (...); give another file"),
    "empty stop": (
        nothing, "generate prose --prompt a --stop ''",
        "--stop: an empty text would end everything at once; leave it out"),
    "temperature": (
        nothing, "generate prose --prompt a --temperature -1",
        "--temperature: -1.0 is out of range; give 0 (the most likely token) or a positive "
        "number"),
    "top-k": (
        nothing, "generate prose --prompt a --top-k 0",
        "--top-k: 0 keeps no token; give at least 1"),
    "top-p": (
        nothing, "generate prose --prompt a --top-p 1.5",
        "--top-p: 1.5 is out of range; give a number in (0, 1]"),
}  # fmt: skip

SWEEPS = {
    "unknown config": (
        write("s.gin", "Sweep.configs = ('tinny.gin',)"), "sweep s.gin",
        "s.gin: no config file 'tinny.gin'; ..."),
    "no sweep": (
        nothing, "sweep tiny.gin",
        "tiny.gin:1: Experiment.model: nothing is called 'Experiment'; choose one of Sweep"),
    "empty grid": (
        write("s.gin", SWEEP + "Sweep.grid = {'Stage.steps': ()}"), "sweep s.gin",
        "s.gin:2: Sweep.grid: 'Stage.steps' has (); give a tuple of values, such as (1, 2)"),
    "no seeds": (
        write("s.gin", SWEEP + "Sweep.seeds = ()"), "sweep s.gin",
        "s.gin:2: Sweep.seeds: is empty; give at least one"),
    "two cells of one name": (
        write("s.gin", SWEEP + "Sweep.cells = (('a', 'Stage.steps=2'), ('a', 'Stage.steps=3'))"),
        "sweep s.gin",
        "s.gin: two runs are called 'tiny-a-seed0': tiny.gin Stage.steps=2 and tiny.gin "
        "Stage.steps=3; give them names of their own in Sweep.cells or Sweep.labels"),
    "wrong cell": (
        write("s.gin", SWEEP + "Sweep.cells = (('a', 'Stage.stps=2'),)"), "sweep s.gin",
        "s.gin: tiny-a-seed0: Stage.stps=2: Stage.stps: Stage has no parameter 'stps'; did you "
        "mean 'steps'?"),
    "no such cell": (
        write("s.gin", SWEEP), "sweep s.gin --only big",
        "--only big: no cell has such a name; choose one of tiny"),
    "out is a file": (
        write("s.gin", SWEEP), "sweep s.gin --out tiny.gin",
        "tiny.gin: the folder of the runs cannot be made (File exists); choose another with "
        "--out"),
    "no text": (
        write("s.gin", "Sweep.configs = ('prose.gin',)"),
        "sweep s.gin train/Text.length=100000",
        "prose-seed0: Text.length: the split 'train' of prepared has ...; lower Text.length, or "
        "prepare more text"),
}  # fmt: skip

REPORT = {
    "nothing there": (
        nothing, "report nowhere",
        "nowhere: no such directory; give run directories, or folders of them"),
    "no runs": (
        nothing, "report books",
        "books: no runs are here; train some with bmojo train or bmojo sweep"),
    "no finished run": (
        nothing, "report run",
        "none of the 1 runs is finished; let them finish with bmojo train"),
    "broken metrics": (
        write("run/metrics.jsonl", "{\n"), "report run",
        "run/metrics.jsonl: not readable as lines of JSON (...); leave this run out"),
    "foreign summary": (
        write("run/summary.json", "{}"), "report run",
        "run/summary.json: has no 'status'; it is not of a run of bmojo train, leave it out"),
}  # fmt: skip

TABLE = {
    f"{section}: {name}": case
    for section, cases in {
        "prepare": PREPARE, "prepared": PREPARED, "train": TRAIN, "resume": RESUME,
        "eval": EVALUATE, "generate": GENERATE, "sweep": SWEEPS, "report": REPORT,
    }.items()
    for name, case in cases.items()
}  # fmt: skip

TALKS = ("data prepare", "sweep", "train prose.gin --run-dir prose")
"""Commands that say what they are about to do before they can see the mistake."""


def begin_run(config, folder):
    """A run directory as training leaves it after its first step."""
    experiment, text = load(config)
    stage, trainer = experiment.curriculum[0], experiment.trainer
    _, shapes = outline(make := lambda: experiment.model.make(nnx.Rngs(0)))
    optimizer = make_optimizer(experiment.optimizer, stage.steps, outline(make)[0].names)
    batches = Segments(Batches(stage.data.source(trainer.seed, "train"), stage.batch_size))
    next(batches)
    meta = {
        "stage": 0, "data": batches.get_state(), "window": [], "seed": 0, "seconds": 0.0,
        "compile_seconds": 0.0, "config": text,
    }  # fmt: skip
    state = jax.tree.map(
        lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(optimizer.init, shapes)
    )
    folder.mkdir()
    (folder / "config.gin").write_text(text)
    for name in ("metrics.jsonl", "speed.jsonl"):
        (folder / name).touch()
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


def everything():
    return sorted(str(path) for path in Path().rglob("*") if path.name != ".lock")


@pytest.fixture
def here(world, tmp_path, monkeypatch):
    """A copy of it as the working directory, without a network."""
    shutil.copytree(world, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BMOJO_CACHE_DIR", str(tmp_path / "cache"))

    def load_dataset(*_, **__):
        raise ConnectionError("offline")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=load_dataset))


@pytest.mark.parametrize("name", TABLE)
def test_one_line_says_what_is_wrong_and_nothing_is_begun(here, name):
    plant, command, error = TABLE[name]
    plant()
    before = everything()
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    pattern = ".*".join(map(re.escape, f"error: {error}\n".split("...")))
    assert re.fullmatch(pattern, result.stderr), result.stderr
    assert result.exit_code == 2
    assert not result.stdout or command.startswith(TALKS)
    assert everything() == before


USAGE = {
    "data prepare books --out out --workers 0": "'--workers'",
    "inspect tiny.gin --length 0": "'--length'",
    "eval run --context 0 --eval perplexity": "'--context' / '--length'",
    "eval run --eval perplexit": "'--eval'",
    "eval run --batch-size 0": "'--batch-size'",
    "generate prose --max-new-tokens 0": "'--max-new-tokens'",
    "generate prose --seed -1": "'--seed'",
    "sweep s.gin --workers 0": "'--workers'",
}


@pytest.mark.parametrize("command", USAGE)
def test_options_out_of_range_are_told_with_the_usage(command):
    result = CliRunner().invoke(app, shlex.split(command))
    assert result.exit_code == 2
    *_, last = result.stderr.splitlines()
    assert last.startswith(f"Error: Invalid value for {USAGE[command]}: ")


def test_the_world_is_right(here):
    """Everything that the table breaks works as it is."""
    for command in (
        "generate prose --prompt a --max-new-tokens 1",
        "data prepare books --out out --workers 1",
    ):
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, (command, result.output, result.exception)
