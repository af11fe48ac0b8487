"""What a run meets while it goes: one line, an exit code, and the same command goes on."""

import contextlib
import ctypes
import dataclasses
import gc
import os
import resource
import stat
import sys
import threading
import time
from pathlib import Path

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache

from bmojo.data.mqar import MQARConfig
from bmojo.data.pipeline import DataError
from bmojo.data.synthetic import SyntheticSource
from bmojo.training import metrics
from bmojo.training.config import Evaluation, Stage, TrainerConfig
from bmojo.training.run_dir import RunDir, WriteError
from tests.training.standin import CONFIG_TEXT, VOCAB_SIZE, run

OFTEN = TrainerConfig(log_every=1, eval_every=3, checkpoint_every=2, plots=False)
SELDOM = TrainerConfig(
    log_every=1000, eval_every=0, checkpoint_every=4, tensorboard=False, plots=False
)
"""Nothing is written before the first checkpoint."""


class Source(SyntheticSource):
    def __getitem__(self, index):
        if (self.split, index) == (self.config.where, self.config.at):
            Task.happens()
        return super().__getitem__(index)


@dataclasses.dataclass(frozen=True)
class Task(MQARConfig):
    """Something happens when one example is read."""

    where: str = "train"
    at: int = -1

    def source(self, seed, split):
        return Source(self, seed, split)

    @staticmethod
    def happens():
        raise AssertionError


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """A cache of compiled programs for this module alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BMOJO_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        yield
    jax.config.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()


def train(path, trainer=OFTEN, happens=None, at=18, where="train", monkeypatch=None):
    """Eight steps of 4 examples, three of 2; example 18 is read for the fifth step."""
    if happens is not None:
        monkeypatch.setattr(Task, "happens", staticmethod(happens))
    at = -1 if happens is None else at
    first, second = (Task(length, (2,), VOCAB_SIZE, where=where, at=at) for length in (16, 24))
    return run(
        path,
        trainer=trainer,
        curriculum=(Stage(first, 8, 4), Stage(second, 3, 2)),
        evaluations=(Evaluation("recall", first, 2, 8),),
    )


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """Metrics of runs that nothing disturbed."""

    def metrics(trainer):
        path = tmp_path_factory.mktemp("straight")
        assert train(path, trainer).exit_code == 0
        return (path / "metrics.jsonl").read_bytes()

    return {trainer: metrics(trainer) for trainer in (OFTEN, SELDOM)}


def steps(path):
    return sorted(int(entry.name) for entry in (path / "checkpoints").iterdir())


@pytest.fixture(autouse=True)
def nothing_is_left_over(monkeypatch, recwarn):
    """What fails leaves no task, coroutine or event loop that complains when it is collected."""
    gc.collect()
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda found: seen.append(repr(found.exc_value)))
    yield
    for thread in threading.enumerate():
        if "_SignalingThread" in type(thread).__name__:  # the process could not end before
            threading.Thread.join(thread, 20)
            assert not thread.is_alive()
    gc.collect()
    assert not seen
    assert not [str(w.message) for w in recwarn if issubclass(w.category, RuntimeWarning)]


@contextlib.contextmanager
def limits_restored():
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def no_file_beyond(size):
    """The system refuses to write further, as when the disk is full."""
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))


def test_no_room_for_a_line_of_metrics(straight, tmp_path, monkeypatch):
    metrics = tmp_path / "metrics.jsonl"
    trainer = dataclasses.replace(OFTEN, tensorboard=False, checkpoint_every=1000)
    with limits_restored():
        with pytest.raises(WriteError) as caught:
            train(
                tmp_path, trainer, lambda: no_file_beyond(metrics.stat().st_size + 300),
                monkeypatch=monkeypatch,
            )  # fmt: skip
    assert caught.value.exit_code == 4
    assert str(caught.value) == (
        f"{tmp_path}: cannot be written (File too large); see to space and rights there, and the "
        "same command goes on from the last checkpoint"
    )
    assert not metrics.read_bytes().endswith(b"\n"), "the last line is torn"
    assert train(tmp_path, trainer).exit_code == 0
    assert metrics.read_bytes() == straight[OFTEN]


def test_no_room_for_a_checkpoint(straight, tmp_path, monkeypatch):
    with limits_restored():
        with pytest.raises(WriteError, match=r"cannot be written \(File too large\)"):
            train(tmp_path, SELDOM, lambda: no_file_beyond(300), monkeypatch=monkeypatch)
    assert not [name for name in os.listdir(tmp_path / "checkpoints") if name.isdecimal()]
    assert train(tmp_path, SELDOM).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[SELDOM]


def test_no_file_descriptor_is_left(straight, tmp_path, monkeypatch):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/proc/self/fd"))
    try:
        with pytest.raises(WriteError) as caught:
            train(
                tmp_path, SELDOM, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (few, hard)),
                monkeypatch=monkeypatch,
            )  # fmt: skip
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert "cannot be written (Too many open files, raise ulimit -n)" in str(caught.value)
    assert caught.value.exit_code == 4
    assert train(tmp_path, SELDOM).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[SELDOM]


def test_no_room_for_events(straight, tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="it is an extra")

    def full(writer, data):
        raise OSError(28, "No space left on device")

    def happens():
        monkeypatch.setattr("tensorboardX.record_writer.RecordWriter.write", full)

    with monkeypatch.context() as patch, pytest.raises(WriteError, match="No space left"):
        patch.setattr(Task, "happens", staticmethod(happens))
        train(tmp_path, happens=happens, monkeypatch=patch)
    monkeypatch.undo()
    assert train(tmp_path).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[OFTEN]


@contextlib.contextmanager
def rights_of_an_owner():
    """Without the right of root to write everywhere."""
    if os.geteuid():
        yield
        return
    if sys.platform != "linux":
        pytest.skip("root may write everywhere")
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    before = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, before) == 0
    without = (ctypes.c_uint32 * 6)(*before)
    without[0] &= ~0b110  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
    assert libc.capset(header, without) == 0
    try:
        yield
    finally:
        assert libc.capset(header, before) == 0


def test_a_directory_that_nobody_may_write_any_more(straight, tmp_path, monkeypatch):
    checkpoints = tmp_path / "checkpoints"
    rights = stat.S_IMODE(tmp_path.stat().st_mode)
    with rights_of_an_owner():
        with pytest.raises(WriteError, match=r"cannot be written \(Permission denied\)"):
            train(
                tmp_path, SELDOM, lambda: checkpoints.chmod(0o555), at=10, monkeypatch=monkeypatch
            )
        checkpoints.chmod(rights)
        tmp_path.chmod(0o555)
        with pytest.raises(WriteError, match=r"cannot be written \(Permission denied\)"):
            train(tmp_path, SELDOM)
        tmp_path.chmod(rights)
    assert train(tmp_path, SELDOM).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[SELDOM]


def broken():
    raise ConnectionError("the storage is gone")


@pytest.mark.parametrize(
    ("where", "at", "step"), [("train", 18, 4), ("train", 33, 8), ("test", 9, 3), ("train", 1, 0)]
)
@pytest.mark.one_in(3)
def test_an_example_that_cannot_be_read(straight, tmp_path, monkeypatch, where, at, step):
    """In the middle of a stage, in the first batch of the second, of an evaluation, of all."""
    with pytest.raises(DataError) as caught:
        train(tmp_path, happens=broken, at=at, where=where, monkeypatch=monkeypatch)
    assert caught.value.exit_code == 5
    assert str(caught.value) == (
        f"Task: example {at} of the {where} split cannot be read (ConnectionError: the storage is "
        f"gone); mend the data, and the same command goes on from step {step}"
    )
    assert max(steps(tmp_path), default=0) == step, "nothing is lost"
    assert train(tmp_path).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[OFTEN]


def test_a_clock_that_jumps_decides_nothing(straight, tmp_path, monkeypatch):
    jumps = iter(range(10**9))
    honest = time.time
    monkeypatch.setattr(time, "time", lambda: honest() + (-1) ** next(jumps) * 30)
    assert train(tmp_path).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[OFTEN]


def test_only_the_stamp_of_events_asks_the_time_of_day():
    root = Path(metrics.__file__).parents[1]
    asking = [
        path.name
        for path in root.rglob("*.py")
        # Tables of times say when they were taken, entries of a store when they were written.
        if not {"benchmark", "storage"} & set(path.parts)
        and ("time.time(" in (text := path.read_text()) or "datetime" in text)
    ]
    assert asking == ["metrics.py"]


def test_a_line_that_a_power_cut_tore_is_written_again(straight, tmp_path, monkeypatch):
    with pytest.raises(DataError):
        train(tmp_path, happens=broken, monkeypatch=monkeypatch)
    for name in ("metrics.jsonl", "speed.jsonl"):
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content + content[:20])
    assert train(tmp_path).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[OFTEN]


def test_names_that_are_no_checkpoints_are_left_alone(straight, tmp_path, monkeypatch):
    with pytest.raises(DataError):
        train(tmp_path, happens=broken, monkeypatch=monkeypatch)
    (tmp_path / "checkpoints" / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "old").mkdir()
    assert train(tmp_path).exit_code == 0
    assert (tmp_path / "metrics.jsonl").read_bytes() == straight[OFTEN]
    assert (tmp_path / "checkpoints" / "notes.txt").read_text() == "mine"


def test_a_file_where_checkpoints_belong(tmp_path):
    (tmp_path / "checkpoints").write_text("")
    (tmp_path / "config.gin").write_text(CONFIG_TEXT)
    with pytest.raises(WriteError, match="cannot be written"):
        train(tmp_path)


def test_an_error_that_is_not_the_directorys_stays_what_it_is(tmp_path):
    elsewhere = FileNotFoundError(2, "No such file or directory", "/elsewhere/file")
    for error in (elsewhere, ValueError("shapes"), ConnectionError(104, "peer")):
        with pytest.raises(type(error)), RunDir(tmp_path).writing():
            raise error
