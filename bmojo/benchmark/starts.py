"""From the start of a process to its first finished training step, without and with a cache."""

import dataclasses
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import bmojo
from bmojo.benchmark.cases import Case, Check, require
from bmojo.benchmark.models import Dimensions
from bmojo.benchmark.results import Row
from bmojo.benchmark.statistics import spread
from bmojo.errors import UserError

__all__ = ["COLD", "GROUP", "PARTS", "WARM", "Starts"]

GROUP = "process start to first finished step"
COLD, WARM = "empty cache", "warm cache"
PARTS = ("import", "kernels", "make", "compile", "step")
PROGRAM = (sys.executable, "-m", "bmojo.benchmark.first_step")
NEAR_CHANCE = 0.5
"""By how much of ln V the first loss may differ from it."""


class Starts:
    """Starts processes that make one step, and keeps what they tell.

    Args:
      model: its name.
      dimensions: of the model.
      batch: rows.
      length: tokens of the step.
      folder: for the caches of compiled programs, an empty one.

    Attributes:
      told: what each process said, by case.
      checks: that the first loss of each kind of process was near ln V, before any was timed.
    """

    def __init__(
        self, model: str, dimensions: Dimensions, batch: int, length: int, folder: Path
    ) -> None:
        options = {"model": model, "batch": batch, "length": length}
        self._options = {**options, "dimensions": dataclasses.asdict(dimensions)}
        self._vocabulary = dimensions.vocabulary
        self._folder = folder
        self.told: dict[str, list[Mapping[str, float]]] = {COLD: [], WARM: []}
        self.checks: list[Check] = []

    def cases(self) -> list[Case]:
        """A start with an empty cache, a new one each time; and one that finds all it needs."""
        return [
            Case(COLD, GROUP, lambda: self.start(COLD), calls=1, fresh=True),
            Case(WARM, GROUP, lambda: self.start(WARM), baseline=COLD, calls=1, fresh=True),
        ]

    def start(self, kind: str) -> float:
        """Run a process; the seconds from its start to the end of its step.

        Raises:
          UserError: it failed.
          WrongError: its loss is not that of a model that has just been drawn.
        """
        if kind == WARM:
            return self._run(self._folder / "warm", kind)
        with tempfile.TemporaryDirectory(dir=self._folder) as empty:
            return self._run(Path(empty), kind)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        """Where the time goes, by medians over all processes but the first of each kind."""
        notes = []
        for kind, (_, *told) in self.told.items():
            parts = [f"{part} {spread([t[part] for t in told]).median:.2f} s" for part in PARTS]
            total = spread([t["total"] for t in told]).median
            notes.append(f"{kind}: {total:.2f} s, of which {', '.join(parts)}")
        return notes

    def _run(self, cache: Path, kind: str) -> float:
        root = str(Path(bmojo.__file__).parent.parent)
        paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
        environment = {
            **os.environ,
            "BMOJO_CACHE_DIR": str(cache),
            "PYTHONPATH": os.pathsep.join(paths),
        }
        command = [*PROGRAM, json.dumps(self._options)]
        began = time.perf_counter()
        with subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            seconds = time.perf_counter() - began
            _, errors = process.communicate()
        if process.returncode or not line:
            last = (errors.strip().splitlines() or ["it said nothing"])[-1]
            raise UserError(f"a process that makes one step failed: {last}")
        told: dict[str, Any] = json.loads(line)
        off = abs(told["loss"] / math.log(self._vocabulary) - 1)
        check = Check(kind, "first loss and ln V", off, NEAR_CHANCE)
        require([check])
        if not self.told[kind]:
            self.checks.append(check)
        self.told[kind].append({**told, "total": seconds})
        return seconds
