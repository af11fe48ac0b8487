"""``metrics.jsonl`` is compared with what the checkpoint knows of it."""

import dataclasses
import io
import json
import signal
import struct

import pytest
from rich.console import Console

from bmojo.errors import UserError
from bmojo.evaluation.collect import collect
from bmojo.training.config import TrainerConfig
from bmojo.training.metrics import best_of
from bmojo.training.report import Status
from bmojo.training.run_dir import RunDir, RunError
from tests.training.standin import run

TRAINER = TrainerConfig(
    log_every=2, eval_every=3, checkpoint_every=4, keep=1, best="recall/loss", tensorboard=False,
    plots=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    path = tmp_path_factory.mktemp("straight")
    assert run(path, trainer=TRAINER).exit_code == 0
    return path


@pytest.fixture
def stopped(tmp_path):
    """A run that was stopped in its second stage, and its metrics."""
    assert run(tmp_path, 33, signal.SIGTERM, trainer=TRAINER).exit_code == 143
    return tmp_path, tmp_path / "metrics.jsonl"


def kept(path):
    return sorted(entry.name for entry in (path / "checkpoints").iterdir())


@pytest.mark.parametrize("damage", ["halved", "flipped", "twice", "cut"])
def test_records_that_were_changed_are_refused(stopped, damage):
    path, metrics = stopped
    content, before = metrics.read_bytes(), kept(path)
    lines = content.splitlines(keepends=True)
    place = content.index(b'"loss": ') + 9
    metrics.write_bytes({
        "halved": content[: len(content) // 2],
        "flipped": content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :],
        "twice": b"".join([*lines[:2], lines[1], *lines[2:]]),
        "cut": b"".join(lines[:-1]),
    }[damage])  # fmt: skip
    with pytest.raises(RunError, match=r"metrics.jsonl: its records up to step .* put the file"):
        run(path, trainer=TRAINER)
    assert kept(path) == before
    metrics.write_bytes(content)
    assert run(path, trainer=TRAINER).exit_code == 0


@pytest.mark.parametrize("damage", ["lost", "flipped", "cut"])
def test_who_reads_the_records_compares_them_too(stopped, damage):
    path, metrics = stopped
    content = metrics.read_bytes()
    assert best_of(RunDir(path), TRAINER.best).step in (3, 6, 9)
    assert len(collect([path])) == 1
    if damage == "lost":
        metrics.unlink()
    else:
        place = content.index(b'"loss": ') + 9
        flipped = content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
        metrics.write_bytes(flipped if damage == "flipped" else content[: len(content) // 2])
    for read in (lambda: best_of(RunDir(path), TRAINER.best), lambda: collect([path])):
        with pytest.raises(
            UserError, match=r"metrics.jsonl: its records up to step .* from a copy"
        ):
            read()


def test_what_came_after_the_checkpoint_is_taken_out(straight, stopped):
    path, metrics = stopped
    metrics.write_bytes(metrics.read_bytes() + metrics.read_bytes().splitlines(keepends=True)[0])
    assert run(path, trainer=TRAINER).exit_code == 0
    assert metrics.read_bytes() == (straight / "metrics.jsonl").read_bytes()


def test_lost_records_are_told_and_cost_no_checkpoint(straight, stopped):
    path, metrics = stopped
    metrics.unlink()
    console = Console(file=io.StringIO(), width=300)
    assert run(path, trainer=TRAINER, console=console).exit_code == 0
    assert "are lost; the run goes on without them" in console.file.getvalue()
    assert kept(path) == kept(straight), "the best is known from the checkpoint"
    assert metrics.read_bytes() and (straight / "metrics.jsonl").read_bytes().endswith(
        metrics.read_bytes()
    )


def test_a_file_that_is_removed_while_training_is_written_again(straight, tmp_path, monkeypatch):
    honest = Status.update

    def remove(status, step, *rest):
        (tmp_path / "metrics.jsonl").unlink(missing_ok=True)
        return honest(status, step, *rest)

    monkeypatch.setattr(Status, "update", remove)
    result = run(tmp_path, trainer=TRAINER)
    assert result.exit_code == 0
    assert result.summary["final"] == json.loads((straight / "summary.json").read_text())["final"]
    assert (tmp_path / "metrics.jsonl").read_bytes() == (straight / "metrics.jsonl").read_bytes()


def seen(folder):
    """Steps and names of the scalars that TensorBoard shows, file after file."""
    from tensorboardX.proto.event_pb2 import Event, SessionLog

    found = []
    for path in sorted(folder.iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            event = Event.FromString(content[place + 12 : place + 12 + length])
            place += length + 16
            if event.session_log.status == SessionLog.START:
                found = [(step, name) for step, name in found if step < event.step]
            found += [(event.step, value.tag) for value in event.summary.value]
    return found


def test_events_of_a_resumed_step_are_seen_once(tmp_path, monkeypatch):
    pytest.importorskip("tensorboardX", reason="it is an extra")
    trainer = dataclasses.replace(TRAINER, eval_every=4, best=None, tensorboard=True)
    honest = Status.update

    def stop(status, step, *rest):
        if step == 7:
            raise RuntimeError("killed")
        return honest(status, step, *rest)

    with monkeypatch.context() as patch, pytest.raises(RuntimeError, match="killed"):
        patch.setattr(Status, "update", stop)
        run(tmp_path, trainer=trainer)
    assert (4, "recall/loss/all") in seen(tmp_path / "tensorboard")
    assert run(tmp_path, trainer=trainer).exit_code == 0
    events = [event for event in seen(tmp_path / "tensorboard") if event[1][:5] != "speed"]
    assert len(events) == len(set(events))
    assert [step for step, name in events if name == "train/loss"] == [2, 4, 6, 8, 10, 12, 13]
    assert [step for step, name in events if name == "recall/loss/all"] == [4, 8, 12, 13]
