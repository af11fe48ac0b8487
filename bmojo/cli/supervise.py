"""`bmojo train --max-restarts N`: training in a child process that is restarted when it dies.

This process imports neither JAX nor the data, so that it survives the causes of such deaths.
"""

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from bmojo.multihost import PEER_LOST
from bmojo.processes import SUPERVISED, exit_code, handle_stops, signal_of, start, was_asked_to_stop
from bmojo.training.run_dir import RunDir

__all__ = ["Supervisor"]

OPTION = "--max-restarts"
FINAL = (0, 2, 3)
"""Exit codes without a restart: done, wrong command or config, not finite."""
SAME_STEP = 3
"""Deaths in a row at one step after which there is no restart."""
LONGEST_PAUSE = 60.0
POLL_SECONDS = 0.05
COORDINATOR = "the first process, which coordinates the others, is gone or could not be reached"
REMEDY = "see above what it said; the same command goes on from step"
GOES_ON = "and the same command goes on from the last checkpoint"


class Supervisor:
    """Restarts of a training.

    A training that dies, of a signal that nobody sent through this process or of an error, is
    started again after a pause of 1, 2, 4 ... 60 seconds. There is no restart after a code in
    ``FINAL``, a request to stop, ``SAME_STEP`` deaths in a row at the same checkpoint, or
    ``max_restarts`` restarts.

    Args:
      program: the command of ``bmojo``; its arguments are ``words``, of which ``--fresh`` counts
        until the new run has begun.
      run_dir: of the training.
      say: called with one line for each restart, and one if there is none.
      pause: seconds of the first pause.
      others: whether the training is one of several processes, which JAX aborts if the first dies.
    """

    def __init__(
        self,
        program: Sequence[str],
        words: Sequence[str],
        run_dir: Path,
        max_restarts: int,
        say: Callable[[str], None],
        pause: float = 1.0,
        others: bool = False,
    ):
        self._program, self._words = list(program), list(words)
        self._run, self._max, self._say = RunDir(run_dir), max_restarts, say
        self._pause, self._others = pause, others
        self._asked: int | None = None
        self._child: Any = None

    def run(self) -> int:
        """Train to the end; the exit code of the last child, 128 + the signal if it died of one."""
        before = handle_stops(self._pass_on)
        before[signal.SIGTSTP] = signal.signal(signal.SIGTSTP, self._suspend)
        try:
            return self._run_all()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _run_all(self) -> int:
        old = self._identity()
        steps: list[int] = []
        number = 0
        while True:
            number += 1
            code = self._train()
            if code in FINAL or self._asked is not None or was_asked_to_stop(code):
                return exit_code(code)
            coordinator_lost = self._others and signal_of(code) == signal.SIGABRT
            if coordinator_lost:
                code = PEER_LOST
            why = COORDINATOR if coordinator_lost else reason(code)
            if not self._max:
                if coordinator_lost:
                    self._say(f"error: {why}; this process stops too, {GOES_ON}")
                return exit_code(code)
            if "--fresh" in self._words and self._identity() not in (None, old):
                self._words.remove("--fresh")
            if code != PEER_LOST:
                steps.append(self.step())
            if number > self._max:
                self._say(f"{why}; {OPTION} {self._max} is used up; {REMEDY} {self.step()}")
                return exit_code(code)
            if code != PEER_LOST and steps[-SAME_STEP:] == [steps[-1]] * SAME_STEP:
                self._say(
                    f"{why}, for the {SAME_STEP}rd time in a row at step {steps[-1]}: trying again "
                    f"would not help; {REMEDY} {steps[-1]}"
                )
                return exit_code(code)
            seconds = min(self._pause * 2 ** (number - 1), LONGEST_PAUSE)
            self._say(
                f"{why}; restart {number} of {self._max} in {seconds:g} s, going on from step "
                f"{self.step()}"
            )
            end = time.monotonic() + seconds
            while self._asked is None and time.monotonic() < end:
                time.sleep(POLL_SECONDS)
            if self._asked is not None:
                return 128 + self._asked

    def step(self) -> int:
        """Step of the newest whole checkpoint; 0 without one."""
        try:
            names = os.listdir(self._run.checkpoints)
        except OSError:
            return 0
        return max((int(name) for name in names if name.isdecimal()), default=0)

    def _train(self) -> int:
        environment = os.environ | {SUPERVISED: "1"}
        self._child = start([*self._program, *self._words], env=environment)
        if self._asked is not None:  # between two children
            self._child.send_signal(self._asked)
        try:
            return self._child.wait()
        finally:
            self._child = None

    def _identity(self) -> tuple[int, int] | None:
        """Identity of the run's config file; None without one."""
        try:
            facts = self._run.config.stat()
        except OSError:
            return None
        return facts.st_ino, facts.st_mtime_ns

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._asked = self._asked or number
        if self._child is not None:
            self._child.send_signal(number)

    def _suspend(self, number: int, frame: FrameType | None) -> None:
        """Ctrl-Z: both stop, and both go on."""
        if self._child is not None:
            self._child.send_signal(signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGSTOP)
        if self._child is not None:
            self._child.send_signal(signal.SIGCONT)


def reason(code: int) -> str:
    """The cause of a death, in a few words."""
    number = signal_of(code)
    if number is None:
        return f"the training died with exit code {code}"
    try:
        name = signal.Signals(number).name
    except ValueError:
        name = f"signal {number}"
    memory = " (out of memory, or killed by hand)" if number == signal.SIGKILL else ""
    return f"the training died of {name}{memory}"
