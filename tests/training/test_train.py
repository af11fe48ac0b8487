import dataclasses
import importlib.util
import io
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from rich.console import Console

from bmojo.data.mqar import MQARConfig
from bmojo.data.text.tokenizers import kept_tokenizer, tokenizer, train_tokenizer
from bmojo.evaluation.recall import evaluate
from bmojo.ops.native import library
from bmojo.training.checkpoints import restore_parameters
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.evaluate import Meter
from bmojo.training.parameters import outline
from bmojo.training.run_dir import RunDir, RunError
from tests.training.standin import CONFIG_TEXT, STEPS, StandInConfig, run, task

ROOT = Path(__file__).parents[2]
SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])


def metrics(path):
    return (Path(path) / "metrics.jsonl").read_bytes()


def records(path):
    return [json.loads(line) for line in metrics(path).splitlines()]


def checkpoints(path):
    return sorted(int(entry.name) for entry in (Path(path) / "checkpoints").iterdir())


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of compiled programs for this module alone."""
    directory = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMOJO_CACHE_DIR", str(directory))
        yield directory
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing disturbed."""
    path = tmp_path_factory.mktemp("straight")
    assert run(path).exit_code == 0
    return path


def test_metrics_say_what_was_due(straight):
    lines = records(straight)
    train = [line for line in lines if "evaluation" not in line]
    assert [line["step"] for line in train] == [2, 4, 6, 8, 10, 12, 13]
    assert [line["stage"] for line in train] == [1, 1, 1, 1, 2, 2, 2]
    assert train[-1]["tokens"] == 8 * 4 * 16 + 5 * 2 * 24
    assert list(train[0]) == [
        "step",
        "stage",
        "tokens",
        "loss",
        "accuracy",
        "grad_norm",
        "learning_rate",
    ]
    tests = [line for line in lines if "evaluation" in line]
    assert [line["step"] for line in tests if line["group"] is None] == [3, 6, 9, 12, 13]
    assert {line["group"] for line in tests} == {1, 2, None}
    assert checkpoints(straight) == [12, 13]
    assert (straight / "config.gin").read_text() == CONFIG_TEXT


def test_summary_tells_results_and_provenance(straight):
    summary = json.loads((straight / "summary.json").read_text())
    assert summary["status"] == "finished" and summary["step"] == STEPS
    last = [line for line in records(straight) if "evaluation" not in line][-1]
    assert summary["final"]["loss"] == last["loss"]
    assert [row["group"] for row in summary["evaluations"]] == [1, 2, None]
    assert summary["parameters"] == 32 * 8 + 2 * 64 + 8
    assert summary["seed"] == 0 and summary["versions"]["jax"] and summary["command"]
    assert summary["wall_seconds"] > summary["compile_seconds"] > 0


def test_a_line_holds_the_means_since_the_last_one(straight, tmp_path):
    trainer = TrainerConfig(log_every=1, eval_every=0, tensorboard=False, plots=False)
    run(tmp_path, trainer=trainer)
    every = {line["step"]: line for line in records(tmp_path)}
    source = task(16, (2, 3)).source(0, "train")
    targets = {
        step: sum((source[4 * step - row]["targets"] >= 0).sum() for row in range(1, 5))
        for step in range(1, 9)
    }
    assert len(set(targets.values())) > 1
    for line in records(straight):
        if "evaluation" not in line and line["step"] % 2 == 0:
            pair = [line["step"] - 1, line["step"]]
            weights = [targets.get(step, 1) for step in pair]
            for name in ("loss", "accuracy", "grad_norm"):
                mean = np.average(
                    [every[step][name] for step in pair],
                    weights=None if name == "grad_norm" else weights,
                )
                assert line[name] == pytest.approx(mean, rel=1e-5)


def test_another_seed_is_another_run(straight, tmp_path):
    run(tmp_path, trainer=TrainerConfig(seed=1, tensorboard=False, plots=False))
    assert records(tmp_path)[0]["loss"] != records(straight)[4]["loss"]


def test_killed_again_and_again_the_metrics_are_the_same_to_the_byte(straight, tmp_path):
    """SIGKILL in the middle of stage 1 and in the middle of stage 2."""
    command = [sys.executable, "-m", "tests.training.standin", str(tmp_path)]
    reached = []
    for example in (29, 38):
        done = subprocess.run([*command, str(example)], cwd=ROOT, timeout=120)
        assert done.returncode == -signal.SIGKILL
        reached.append(len(metrics(tmp_path)))
    assert reached == sorted(reached) and reached[0] > 0
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"step": 12, "loss": 1.')  # as a kill in the middle of a write would
    done = subprocess.run(command, cwd=ROOT, timeout=120)
    assert done.returncode == 0
    assert metrics(tmp_path) == metrics(straight)


@SIGNALS
@pytest.mark.parametrize("example", [21, 33])
@pytest.mark.one_in(3)
def test_a_signal_saves_and_the_same_command_goes_on(straight, tmp_path, number, example):
    outcome = run(tmp_path, example, number)
    assert outcome.status == "interrupted" and outcome.exit_code == 128 + number
    assert 0 < outcome.step < STEPS
    assert outcome.step == checkpoints(tmp_path)[-1]
    assert "the same command goes on" in outcome.message
    assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)
    outcome = run(tmp_path)
    assert outcome.exit_code == 0
    assert metrics(tmp_path) == metrics(straight)


def test_a_signal_during_an_evaluation_gives_it_up_and_takes_it_again(
    straight, tmp_path, monkeypatch
):
    honest = Meter.measure

    def interrupted(meter, parameters, evaluations, stopped):
        signal.raise_signal(signal.SIGTERM)
        return honest(meter, parameters, evaluations, stopped)

    monkeypatch.setattr(Meter, "measure", interrupted)
    outcome = run(tmp_path)
    assert (outcome.step, outcome.exit_code) == (3, 143)
    assert checkpoints(tmp_path)[-1] == 3
    monkeypatch.setattr(Meter, "measure", honest)
    assert run(tmp_path).exit_code == 0
    assert metrics(tmp_path) == metrics(straight)


def test_other_kernels_than_those_before_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "_in_use", "kernels-a")
    assert run(tmp_path, 21, signal.SIGTERM).exit_code == 143
    for name, told in (("kernels-a", None), ("kernels-b", "kernels-a"), (None, "kernels-b")):
        monkeypatch.setattr(library, "_in_use", name)
        console = Console(file=io.StringIO(), width=300)
        run(tmp_path, 38, signal.SIGTERM, console=console)
        said = console.file.getvalue()
        words = f"was trained with {told}, this goes on with {name or 'no kernels'}: last digits"
        assert (words in said) is ("was trained with" in said) is (told is not None)


def test_an_unreadable_checkpoint_gives_way_to_the_one_before(straight, tmp_path):
    assert run(tmp_path, 38, signal.SIGTERM).exit_code == 143
    newest, before = checkpoints(tmp_path)[::-1]
    shutil.rmtree(tmp_path / "checkpoints" / str(newest) / "optimizer")
    console = Console(file=io.StringIO(), width=300)
    assert run(tmp_path, console=console).exit_code == 0
    said = console.file.getvalue()
    assert f"the checkpoint of step {newest} is damaged (optimizer/" in said
    assert f"going on from step {before}" in said
    assert (tmp_path / f"unreadable-checkpoint-{newest}").is_dir()
    assert metrics(tmp_path) == metrics(straight)


def test_checkpoints_of_another_model_are_no_reason_to_start_over(tmp_path):
    assert run(tmp_path, 20, signal.SIGTERM).exit_code == 143
    there = checkpoints(tmp_path)
    with pytest.raises(RunError, match=r"in_proj.kernel|embedding .*\[32, 8\].*\[32, 4\].*--fresh"):
        run(tmp_path, model=StandInConfig(width=4))
    assert checkpoints(tmp_path) == there


def test_not_finite_keeps_the_batch_and_the_last_good_checkpoint(tmp_path):
    wild = OptimizerConfig(learning_rate=1e38, warmup=0.3, clip=None)
    often = TrainerConfig(log_every=1, checkpoint_every=1, tensorboard=False, plots=False)
    outcome = run(tmp_path, optimizer=wild, trainer=often)
    assert outcome.status == "not finite" and outcome.exit_code == 3
    path = tmp_path / f"bad_batch_step{outcome.step}.npz"
    assert str(path) in outcome.message and f"step {outcome.step}:" in outcome.message
    rows = 4 * (outcome.step - 1)
    source = task(16, (2, 3)).source(0, "train")
    with np.load(path) as batch:
        assert batch["inputs"].tolist() == [source[rows + i]["inputs"].tolist() for i in range(4)]
    kept = checkpoints(tmp_path)
    assert kept[-1] == outcome.step - 1 >= 1
    assert records(tmp_path)[-1]["step"] == outcome.step - 1
    assert not (tmp_path / "summary.json").exists()
    again = run(tmp_path, optimizer=wild, trainer=often)
    assert again.step == outcome.step and checkpoints(tmp_path) == kept


def test_updates_that_are_not_finite_are_skipped_but_not_for_ever(tmp_path):
    wild = OptimizerConfig(learning_rate=1e38, warmup=0.3, clip=None)
    often = TrainerConfig(log_every=1, tensorboard=False, plots=False)
    first = run(tmp_path / "stop", optimizer=wild, trainer=often).step
    skip = dataclasses.replace(often, on_nonfinite="skip")
    outcome = run(tmp_path / "skip", optimizer=wild, trainer=skip)
    assert (outcome.status, outcome.step) == ("not finite", first + 9)
    lines = [line for line in records(tmp_path / "skip") if "stage" in line]
    assert [line["skipped"] for line in lines] == [0] * (first - 1) + [1] * 9
    assert {line["loss"] for line in lines[first - 1 :]} == {None}


@dataclasses.dataclass(frozen=True)
class Prose(MQARConfig):
    tokenizer: object = None
    documents: object = None


def test_the_tokenizer_of_the_text_is_kept_in_the_run(tmp_path):
    file = tmp_path / "bpe.json"
    file.write_bytes(train_tokenizer(iter(["words of a text"]), 260))
    for coder in (tokenizer("bytes"), tokenizer(f"tokenizers:{file}")):
        stage = Stage(Prose(16, (2,), 32, tokenizer=coder), 1, 2)
        path = tmp_path / coder.spec[:5]
        assert run(path, curriculum=(stage,), evaluations=()).exit_code == 0
        kept = kept_tokenizer(path)
        assert kept.fingerprint == coder.fingerprint
        assert kept.encode("text").tolist() == coder.encode("text").tolist()
    assert (path / "tokenizer.json").read_bytes() == file.read_bytes()
    assert kept_tokenizer(tmp_path) is None


def test_a_finished_run_says_so_and_changes_nothing(straight):
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*") if path.is_file()}
    console = Console(file=io.StringIO(), width=200)
    outcome = run(straight, console=console)
    assert (outcome.status, outcome.exit_code) == ("finished", 0)
    assert outcome.summary == json.loads((straight / "summary.json").read_text())
    said = console.file.getvalue()
    assert "this run is finished" in said and "--fresh" in said
    assert "recall" in said and "chance" in said
    for path, changed in before.items():
        assert path.name == ".lock" or path.stat().st_mtime_ns == changed


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CONFIG_TEXT.replace("8", "9"), r"config.gin:1: .*'Model.width = 8'.*'Model.width = 9'"),
        (CONFIG_TEXT + "A.b = 1\n", r"config.gin:3: .*no such line, .*'A.b = 1'"),
        ("A.b = 1\n" + CONFIG_TEXT, r"config.gin:1: .*no such line, .*'A.b = 1'"),
        ("Trainer.seed = 0\n", r"config.gin:1: .*'Model.width = 8', .*no such line"),
    ],
)
def test_another_config_is_refused_with_the_first_line_that_differs(straight, text, words):
    with pytest.raises(RunError, match=words + r".*--run-dir.*--fresh"):
        run(straight, config_text=text)


def test_fresh_moves_the_old_run_aside_and_starts_over(straight, tmp_path):
    here = tmp_path / "run"
    shutil.copytree(straight, here)
    text = CONFIG_TEXT + "A.b = 1\n"
    outcome = run(here, config_text=text, fresh=True)
    assert outcome.exit_code == 0 and (here / "config.gin").read_text() == text
    aside = tmp_path / "run.old1"
    assert metrics(aside) == metrics(straight) and checkpoints(aside) == [12, 13]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", [".git/config", "src/config.gin", "config.gin", "checkpoints/1/a"])
def test_a_directory_of_other_files_is_left_alone(tmp_path, monkeypatch, name, fresh):
    path = tmp_path / "here" / name
    path.parent.mkdir(parents=True)
    path.touch()
    monkeypatch.chdir(tmp_path / "here")
    for given, words in (
        ("", "run directory: its name is empty"),
        (".", "here: holds files, but no run"),
    ):
        with pytest.raises(RunError, match=words):
            run(given, fresh=fresh)
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]


def test_one_process_at_a_time(tmp_path):
    holder = (
        f"import sys; from bmojo.training.run_dir import RunDir\n"
        f"with RunDir({str(tmp_path)!r}).lock(): print('locked', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", holder],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout.readline() == "locked\n"
        with pytest.raises(RunError, match=rf"process {process.pid} is training here.*--run-dir"):
            run(tmp_path)
        process.stdin.close()
        process.wait(timeout=60)
    with RunDir(tmp_path).lock():
        pass


def test_configs_that_do_not_fit_each_other_are_refused(tmp_path):
    large = MQARConfig(16, (2,), 64)
    with pytest.raises(ValueError, match=r"curriculum: .* 64 tokens, the model only 32; raise"):
        run(tmp_path / "run", curriculum=(Stage(large, 1, 1),))
    one = Evaluation("recall", task(16, (2,)), 1, 1)
    with pytest.raises(ValueError, match="evaluations: names must differ, got recall, recall"):
        run(tmp_path / "run", evaluations=(one, one))
    with pytest.raises(ValueError, match="curriculum: needs at least one stage"):
        run(tmp_path / "run", curriculum=())
    assert not (tmp_path / "run").exists()


def test_a_run_without_its_config_is_not_taken_over(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n')
    with pytest.raises(RunError, match=r"no config.gin.*--fresh"):
        run(tmp_path)
    assert metrics(tmp_path) == b'{"step": 1}\n'


def test_plots_and_tensorboard_events_are_written(tmp_path):
    pytest.importorskip("tensorboardX", reason="it is an extra")
    trainer = TrainerConfig(log_every=2, eval_every=4)
    console = Console(file=io.StringIO(), width=300, force_terminal=True)
    run(tmp_path, trainer=trainer, console=console)
    assert "tokens/s" in console.file.getvalue() and "stage 2/2" in console.file.getvalue()
    for name in ("curve.png", "accuracy.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / name) in console.file.getvalue()
    events = list((tmp_path / "tensorboard").iterdir())
    assert b"train/loss" in events[0].read_bytes()
    assert b"recall/accuracy/all" in events[0].read_bytes()


def test_events_that_cannot_be_written_are_told(tmp_path, monkeypatch):
    honest = importlib.util.find_spec
    absent = lambda name, *rest: None if name == "tensorboardX" else honest(name, *rest)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", absent)
    for tensorboard in (True, False):
        trainer = TrainerConfig(tensorboard=tensorboard, plots=False, eval_every=0)
        console = Console(file=io.StringIO(), width=300)
        run(tmp_path / str(tensorboard), 1, signal.SIGTERM, trainer=trainer, console=console)
        said = "Trainer.tensorboard: no events, as tensorboardX is not installed"
        assert (said in console.file.getvalue()) is tensorboard


def test_a_run_can_be_loaded_and_measured(straight):
    structure, shapes = outline(lambda: StandInConfig().make(nnx.Rngs(0)))
    step, parameters, _ = restore_parameters(RunDir(straight).checkpoints, shapes)
    assert step == STEPS
    rows = evaluate(structure.merge(parameters), [Evaluation("recall", task(16, (1, 2)), 2, 8)])
    assert rows == json.loads((straight / "summary.json").read_text())["evaluations"]


def test_a_checkpoint_of_another_step_or_run_is_refused_by_name(straight, tmp_path):
    here = tmp_path / "run"
    shapes = outline(lambda: StandInConfig().make(nnx.Rngs(0)))[1]
    shutil.copytree(straight, here)
    (here / "config.gin").write_text(CONFIG_TEXT.replace("seed = 0", "seed = 1"))
    with pytest.raises(RunError, match=r"another run.*'Trainer.seed = 0' .* 'Trainer.seed = 1'"):
        restore_parameters(here / "checkpoints", shapes)
    (here / "config.gin").write_text(CONFIG_TEXT)
    (here / "checkpoints" / "13").rename(here / "checkpoints" / "99")
    with pytest.raises(RunError, match=r"step 99 .*: it is the checkpoint of step 13"):
        restore_parameters(here / "checkpoints", shapes)
    (here / "summary.json").unlink()
    console = Console(file=io.StringIO(), width=300)
    assert run(here, console=console).exit_code == 0
    assert "step 99 cannot be read (it is the checkpoint of step 13" in console.file.getvalue()
    assert metrics(here) == metrics(straight)
    (here / "summary.json").unlink()
    (here / "checkpoints" / "12").rename(here / "checkpoints" / "00012")
    for use in (lambda: run(here), lambda: restore_parameters(here / "checkpoints", shapes)):
        with pytest.raises(RunError, match="/00012: a checkpoint is named by its step; .* to 12,"):
            use()


def test_a_checkpoint_of_another_run_with_the_same_config_is_refused(straight, tmp_path):
    """Its seed, data or files may be others; a run that was copied whole is the same run."""
    here = tmp_path / "run"
    shapes = outline(lambda: StandInConfig().make(nnx.Rngs(0)))[1]
    other = TrainerConfig(seed=1, log_every=2, eval_every=3, tensorboard=False, plots=False)
    assert run(here, 38, signal.SIGTERM, trainer=other).exit_code == 143
    newest = checkpoints(here)[-1]
    shutil.copytree(here, tmp_path / "copy")
    assert restore_parameters(tmp_path / "copy" / "checkpoints", shapes)[0] == newest
    shutil.copytree(straight / "checkpoints" / "13", here / "checkpoints" / "13")
    with pytest.raises(
        RunError, match=r"step 13 .*another run with the same config \(\w{32}, and "
    ):
        restore_parameters(here / "checkpoints", shapes)
    console = Console(file=io.StringIO(), width=400)
    assert run(here, trainer=other, console=console).exit_code == 0
    said = console.file.getvalue()
    assert "step 13 cannot be read (it is of another run with the same config" in said
    assert f"going on from step {newest} of" in said
    assert metrics(here) != metrics(straight)
    (here / "run_id").unlink()  # as of a run that an earlier version began
    assert restore_parameters(here / "checkpoints", shapes)[0] == STEPS
    old = tmp_path / "run.old1"
    assert run(here, fresh=True, trainer=other).exit_code == 0
    assert (here / "run_id").read_text() != (straight / "run_id").read_text() and old.is_dir()


def test_loading_says_what_is_missing(straight, tmp_path):
    def load(path, width=8, step=None):
        shapes = outline(lambda: StandInConfig(width).make(nnx.Rngs(0)))[1]
        restore_parameters(RunDir(path).checkpoints, shapes, step)

    with pytest.raises(RunError, match="no checkpoints; train first"):
        load(tmp_path)
    with pytest.raises(RunError, match="does not fit the model"):
        load(straight, width=4)
    with pytest.raises(RunError, match=f"no checkpoint of step 1; take one of .*{STEPS}"):
        load(straight, step=1)


def test_compiled_programs_are_kept(cache, straight):
    assert any((cache / "jax").iterdir())
