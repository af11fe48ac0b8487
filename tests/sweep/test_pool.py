"""Cells as processes; here a shell script stands for training."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmojo.sweep import pool
from bmojo.sweep.plan import Cell
from bmojo.sweep.pool import cores_of, schedulable_cores

SCRIPT = """#!/bin/sh
for word; do case $word in *.gin) config=$word;; esac; done
echo "$config runs: $@"
case $config in
  ok.gin) exit 0;;
  bad.gin) for n in $(seq 30); do echo "line $n"; done; exit 3;;
  slow.gin) trap 'echo saved; exit 143' TERM; while true; do sleep 0.05; done;;
  deaf.gin) trap '' TERM; while true; do sleep 0.05; done;;
esac
"""


class Watcher:
    def __init__(self, tick=lambda: None):
        self.events, self.tick, self.most, self.now = [], tick, 0, 0

    def started(self, cell):
        self.now += 1
        self.most = max(self.most, self.now)
        self.events.append(f"+{cell.name}")

    def ended(self, result):
        self.now -= 1
        self.events.append(f"-{result.cell.name}")


@pytest.fixture
def cells(tmp_path):
    script = tmp_path / "bmojo"
    script.write_text(SCRIPT)
    script.chmod(0o755)

    def make(*kinds):
        out = tmp_path / "out"
        return [Cell(out / f"{k}{n}", f"{k}.gin", seed=n) for n, k in enumerate(kinds)]

    return make


def run(cells, workers, watcher):
    program = cells[0].run.parents[1] / "bmojo"
    return pool.run(cells, workers, watcher, [str(program)])


def test_a_failure_leaves_the_others_running_and_its_output_is_kept(cells):
    watcher = Watcher()
    results, stopped = run(cells("bad", "ok", "ok", "bad", "ok"), 2, watcher)
    assert stopped is None and watcher.most == 2
    assert {r.cell.name: r.code for r in results} == {
        "bad0": 3, "ok1": 0, "ok2": 0, "bad3": 3, "ok4": 0,
    }  # fmt: skip
    bad = next(r for r in results if r.code)
    assert not bad.stopped
    assert bad.tail.splitlines() == [f"line {n}" for n in range(19, 31)]
    assert bad.log.read_text().startswith("$ bmojo train bad.gin --seed 0 --run-dir ")


def test_output_of_a_second_try_is_added_and_its_tail_is_its_own(cells):
    for _ in range(2):
        (result,), _ = run(cells("ok"), 1, Watcher())
    assert result.log.read_text().count("ok.gin runs") == 2
    assert result.tail.count("ok.gin runs") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_stops_all_softly_and_starts_no_more(cells, tmp_path, number):
    asked = []

    def tick():
        logs = list((tmp_path / "out").glob("*.log"))
        ready = len(logs) == 2 and all("runs" in log.read_text() for log in logs)
        if ready and not asked:
            asked.append(time.sleep(0.2))  # the shell sets its trap
            os.kill(os.getpid(), number)

    results, stopped = run(cells("slow", "slow", "ok"), 2, Watcher(tick))
    assert stopped == number
    assert [r.code for r in results] == [143, 143, None]
    assert all(r.stopped for r in results)
    assert results[0].tail.endswith("saved")


def test_a_second_interrupt_kills(cells):
    watcher = Watcher(lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(KeyboardInterrupt):
        run(cells("deaf"), 1, watcher)


def test_cores_are_shared_out():
    cores = [0, 1, 2, 3, 6, 7]
    assert [cores_of(n, 3, cores) for n in range(3)] == [[0, 1], [2, 3], [6, 7]]
    parts = [cores_of(n, 4, cores) for n in range(4)]
    assert sorted(sum(parts, [])) == cores and min(map(len, parts)) == 1
    assert [cores_of(n, 8, cores) for n in range(8)] == [[c] for c in [*cores, 0, 1]]


def child(code):
    root = Path(__file__).parent.parent.parent
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(root)},
    )


@pytest.mark.skipif(sys.platform != "linux", reason="affinity is a matter of Linux")
def test_a_child_is_the_program_on_its_cores():
    core = schedulable_cores()[0]
    done = child(
        "import atexit, os, sys\n"
        "from bmojo.cli.__main__ import main\n"
        "atexit.register(lambda: print(os.sched_getaffinity(0), sys.argv))\n"
        f"main(['--cores', '{core}', '--version'])\n"
    )
    first, second = done.stdout.splitlines()
    assert first.startswith("bmojo ")
    assert second == f"{ {core} } ['bmojo', '--version']"


@pytest.mark.skipif(sys.platform != "linux", reason="so is the signal at a parent's death")
def test_a_child_does_not_outlive_the_sweep():
    done = child(
        "import os, subprocess, sys\n"
        "code = 'import time, bmojo.cli.__main__ as c; c.run = lambda: (print(1, "
        'flush=True), time.sleep(60)); c.main(["--child"])\'\n'
        "process = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE, "
        "stderr=subprocess.DEVNULL)\n"
        "process.stdout.readline()\n"
        "print(process.pid, flush=True)\n"
        "os._exit(1)\n"
    )
    pid = int(done.stdout)
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            break
        if state == "Z":
            break
        time.sleep(0.05)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the child lives on")
