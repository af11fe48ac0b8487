"""A run that is started again; here a small script stands for training."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bmojo.cli.supervise import Supervisor

SCRIPT = """
import json, os, signal, sys, time
tries = json.load(open("tries.json"))
what, step = tries[0]
json.dump(tries[1:], open("tries.json", "w"))
with open("words.txt", "a") as file:
    print(*sys.argv[1:], file=file)
if step is not None:
    os.makedirs(f"run/checkpoints/{step}", exist_ok=True)
    os.makedirs(f"run/checkpoints/{step + 5}.orbax-checkpoint-tmp", exist_ok=True)
    if not os.path.exists("run/config.gin") or "--fresh" in sys.argv:
        with open("run/new", "w") as file:
            file.write("text")
        os.replace("run/new", "run/config.gin")
if what == "sleep":
    def stop(number, frame):
        print("saved", flush=True)
        sys.exit(128 + number)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, stop)
    print("ready", flush=True)
    time.sleep(60)
if what < 0:
    os.kill(os.getpid(), -what)
sys.exit(what)
"""
KILL = -signal.SIGKILL


@pytest.fixture
def supervise(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("script.py").write_text(SCRIPT)

    def supervise(tries, max_restarts, *words):
        """Exit code, lines said, and the words of each child."""
        Path("tries.json").write_text(json.dumps(tries))
        said = []
        program = [sys.executable, "-S", "script.py"]
        supervisor = Supervisor(program, words, Path("run"), max_restarts, said.append, 0.01)
        code = supervisor.run()
        return code, said, Path("words.txt").read_text().splitlines()

    return supervise


def test_a_death_that_nobody_asked_for_is_followed_by_a_restart(supervise):
    tries = [(KILL, None), (-signal.SIGSEGV, 10), (-signal.SIGABRT, 20), (1, 30), (0, 40)]
    code, said, started = supervise(tries, 9, "train", "a.gin")
    assert code == 0
    assert started == ["train a.gin"] * 5
    assert said == [
        "the training died of SIGKILL (out of memory, or killed by hand); restart 1 of 9 in "
        "0.01 s, going on from step 0",
        "the training died of SIGSEGV; restart 2 of 9 in 0.02 s, going on from step 10",
        "the training died of SIGABRT; restart 3 of 9 in 0.04 s, going on from step 20",
        "the training died with exit code 1; restart 4 of 9 in 0.08 s, going on from step 30",
    ]


@pytest.mark.parametrize("code", [0, 2, 3, 130, 143])
def test_an_end_that_would_come_again_or_was_asked_for_is_the_end(supervise, code):
    assert supervise([(code, 10)], 9) == (code, [], [""])


def test_it_ends_when_restarts_are_used_up_with_the_code_of_the_last_death(supervise):
    code, said, started = supervise([(1, 10), (KILL, 20)], 1)
    assert (code, len(started)) == (137, 2)
    assert said[-1] == (
        "the training died of SIGKILL (out of memory, or killed by hand); --max-restarts 1 is "
        "used up; see above what it said; the same command goes on from step 20"
    )


def test_it_ends_when_there_is_no_progress(supervise):
    tries = [(KILL, 5), (KILL, 5), (KILL, 10), (1, None), (-signal.SIGABRT, None)]
    code, said, started = supervise(tries, 9)
    assert (code, len(started)) == (134, 5)
    assert said[-1] == (
        "the training died of SIGABRT, for the 3rd time in a row at step 10: trying again would "
        "not help; see above what it said; the same command goes on from step 10"
    )


def test_what_is_fresh_stays_when_it_is_started_again(supervise):
    Path("run").mkdir()
    Path("run/config.gin").write_text("text")
    _, _, started = supervise([(KILL, None), (KILL, 5), (0, 10)], 9, "train", "--fresh")
    assert started == ["train --fresh", "train --fresh", "train"]


START = """
import sys
from pathlib import Path
from bmojo.cli.supervise import Supervisor
program = [sys.executable, "-S", "script.py"]
say = lambda line: print(line, flush=True)
code = Supervisor(program, [], Path("run"), 9, say, 30).run()
heavy = {"jax", "flax", "numpy", "gin"} & set(sys.modules)
sys.exit(f"imports {heavy}" if heavy else code)
"""


@pytest.fixture
def start(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    root = Path(__file__).parents[2]

    def start(tries, first="true"):
        (tmp_path / "tries.json").write_text(json.dumps(tries))
        return subprocess.Popen(
            ["sh", "-c", f'{first}; exec "$@"', "sh", sys.executable, "-c", START],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )

    return start


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_is_passed_on_and_not_followed_by_a_restart(start, number):
    with start([("sleep", 10)]) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 128 + number


def test_a_lost_terminal_changes_nothing_under_nohup(start):
    with start([("sleep", 10)], "trap '' HUP") as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == "saved\n"
    assert process.returncode == 143


def test_a_signal_during_the_pause_ends_it(start):
    began = time.monotonic()
    with start([(KILL, 10)]) as process:
        assert "restart 1 of 9 in 30 s" in process.stdout.readline()
        process.send_signal(signal.SIGTERM)
        assert process.stdout.read() == ""
    assert process.returncode == 143
    assert time.monotonic() - began < 20
