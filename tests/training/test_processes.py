"""Several processes of one run."""

import queue
import signal
import socket
import threading

import pytest

from bmojo import multihost
from bmojo.errors import UserError
from bmojo.multihost import Cluster, cluster, detect
from scripts.clusters import process_runs as processes


def test_schedulers_are_known_by_what_they_set():
    assert detect({}) is None
    assert detect({"SLURM_JOB_ID": "1", "SLURM_NTASKS": "4"}) is None, "a batch script, no task"
    assert detect({"SLURM_STEP_NUM_TASKS": "4", "SLURM_PROCID": "0"}) == "Slurm"
    assert detect({"SLURM_STEP_NUM_TASKS": "1", "SLURM_PROCID": "0"}) is None
    assert detect({"OMPI_COMM_WORLD_SIZE": "2"}) == "Open MPI"
    assert detect({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a,b"}) == "GKE"
    assert detect({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a"}) is None


def test_the_command_line_may_say_all_of_it_or_nothing():
    assert cluster(None, None, None, False) is None
    assert cluster(None, None, None, True) == Cluster()
    assert cluster("host:1", 2, 1, None) == Cluster("host:1", 2, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("host:1", None, None), "give all three"),
        (("host", 2, 0), "--coordinator: 'host' is not HOST:PORT"),
        (("host:65536", 2, 0), "--coordinator: 'host:65536' is not HOST:PORT"),
        (("host:1", 0, 0), "--num-processes: 0 is too small"),
        (("host:1", 2, 2), "--process-id: 2 is not one of the 2 processes; give 0 to 1"),
    ],
)
def test_half_of_it_is_refused(arguments, message):
    with pytest.raises(UserError, match=message):
        cluster(*arguments, None)


@pytest.mark.slow
def test_a_killed_process_stops_the_others_and_the_run_goes_on(tmp_path):
    straight = processes.straight(tmp_path / "straight", count=2)
    for victim in (0, 1):
        ended = processes.killed(tmp_path / f"killed-{victim}", count=2, victim=victim, step=7)
        assert ended.seconds <= 30
        assert all(code == 6 for code in ended.codes)
        named = "the first process" if victim == 0 else "process 1 of 2"
        assert all(named in line for line in ended.lines)
        assert processes.straight(tmp_path / f"killed-{victim}", count=2) == straight


@pytest.mark.slow
def test_a_frozen_first_process_stops_the_others_in_time(tmp_path):
    ended = processes.killed(tmp_path / "run", 2, victim=0, step=7, number=signal.SIGSTOP)
    assert ended.seconds <= 20 and ended.codes == [6]
    assert "the first process of 2 (pid" in ended.lines[0]
    assert "has not been heard of for 12 s" in ended.lines[0]


class Frozen:
    """A client whose first process answers so many calls, and then none."""

    def __init__(self, calls):
        self.left = calls

    def key_value_set(self, *_, **__):
        self.left -= 1
        if self.left < 0:
            threading.Event().wait()

    def key_value_dir_get(self, prefix):
        self.key_value_set()
        return []


@pytest.mark.parametrize("calls", [0, 1, 9])
def test_a_call_that_is_not_answered_ends_the_watch(monkeypatch, calls):
    ended = queue.Queue()
    monkeypatch.setattr(multihost, "_end", ended.put)
    monkeypatch.setattr(multihost, "BEAT_SECONDS", 0.02)
    watch = multihost._Watch(Frozen(calls), 1, 2)
    watch.start()
    assert ended.get(timeout=20) == "the first process of 2 has not been heard of for 0 s"
    watch.join(20)
    assert not watch.is_alive()


@pytest.mark.parametrize(
    ("host", "patience", "reason"),
    [("no-such-host.invalid", "RESOLVE_SECONDS", ""), ("127.0.0.1", "MEET_SECONDS", "refused")],
)
def test_a_coordinator_that_does_not_answer_is_named(monkeypatch, capsys, host, patience, reason):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"{host}:{closed.getsockname()[1]}"
        for name, seconds in ((patience, 1.5), ("NOTICE_SECONDS", 0.5), ("BEAT_SECONDS", 0.1)):
            monkeypatch.setattr(multihost, name, seconds)
        with pytest.raises(UserError, match=f"--coordinator {address}: no answer.*{reason}"):
            multihost._reach(address)
    assert f"no answer at {address} yet (" in capsys.readouterr().err


def test_a_coordinator_that_begins_late_is_found():
    with socket.socket() as first:
        first.bind(("127.0.0.1", 0))
        threading.Timer(1.5, first.listen).start()
        multihost._reach(f"127.0.0.1:{first.getsockname()[1]}")
        assert first.accept()[0].recv(1) == b""


@pytest.mark.slow
def test_a_signal_to_one_process_stops_all_after_one_step(tmp_path):
    straight = processes.straight(tmp_path / "straight", count=2)
    codes = processes.asked_to_stop(tmp_path / "run", count=2, victim=1, step=7)
    assert codes == [143, 143]
    assert processes.straight(tmp_path / "run", count=2) == straight
