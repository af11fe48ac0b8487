"""Time from the start of a process to its first finished training step, by cache of programs."""

import dataclasses
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import bmojo
from bmojo.benchmark.cases import Case, Check, require
from bmojo.benchmark.models import Dimensions
from bmojo.benchmark.peers import check_first_loss, start_worker
from bmojo.benchmark.results import Row
from bmojo.benchmark.rounds import quantiles

COLD, WARM = "empty cache", "warm cache"
PARTS = ("import", "kernels", "make", "compile", "step")
PROGRAM = (sys.executable, "-P", "-m", "bmojo.benchmark.first_step")


class Starts:
    """Processes that make one step each, with caches of compiled programs in an empty ``folder``.

    Attributes:
      reports: the reports of the processes, by case.
      checks: that the first loss of each kind of process was near ln V, before any was timed.
    """

    def __init__(
        self, model: str, dimensions: Dimensions, batch: int, length: int, folder: Path
    ) -> None:
        options = {"model": model, "batch": batch, "length": length}
        self._options = {**options, "dimensions": dataclasses.asdict(dimensions)}
        self._vocabulary, self._folder = dimensions.vocabulary, folder
        self.reports: dict[str, list[Mapping[str, float]]] = {COLD: [], WARM: []}
        self.checks: list[Check] = []

    def cases(self) -> list[Case]:
        """A start with an empty cache, a new one each time, and one with a full cache."""
        group = "process start to first finished step"
        return [
            Case(COLD, group, lambda: self.start(COLD), calls=1, fresh=True),
            Case(WARM, group, lambda: self.start(WARM), baseline=COLD, calls=1, fresh=True),
        ]

    def start(self, kind: str) -> float:
        """Run a process; the seconds from its start to the end of its step."""
        if kind == WARM:
            return self._run(self._folder / "warm", kind)
        with tempfile.TemporaryDirectory(dir=self._folder) as empty:
            return self._run(Path(empty), kind)

    def conclude(self, rows: Sequence[Row]) -> list[str]:
        """Medians of the parts, over all processes but the first of each kind."""
        notes = []
        for kind, (_, *reports) in self.reports.items():
            median = {p: quantiles([r[p] for r in reports]).median for p in (*PARTS, "total")}
            parts = ", ".join(f"{part} {median[part]:.2f} s" for part in PARTS)
            notes.append(f"{kind}: {median['total']:.2f} s, of which {parts}")
        return notes

    def _run(self, cache: Path, kind: str) -> float:
        paths = [str(Path(bmojo.__file__).parent.parent), os.environ.get("PYTHONPATH", "")]
        environment = {
            **os.environ,
            "BMOJO_CACHE_DIR": str(cache),
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        }
        began = time.perf_counter()
        with start_worker("a process of one step", PROGRAM, env=environment) as worker:
            report = worker.ask("step", **self._options)
            seconds = time.perf_counter() - began
        check = check_first_loss(kind, report["loss"], self._vocabulary)
        require([check])
        if not self.reports[kind]:
            self.checks.append(check)
        self.reports[kind].append({**report, "total": seconds})
        return seconds
