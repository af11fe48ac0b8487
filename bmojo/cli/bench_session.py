"""One measurement of `bmojo bench`: its progress, its tables, its files."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from bmojo.cli.common import progress_bar
from bmojo.errors import UserError

if TYPE_CHECKING:
    from bmojo.benchmark.cases import Case, Check
    from bmojo.benchmark.models import Candidate, Dimensions
    from bmojo.benchmark.results import Results, Row

__all__ = ["QUICK", "REPETITIONS", "Measurement"]

REPETITIONS, QUICK = 15, 3
WIDTH = 180
"""Of tables that go to a file."""


class Measurement:
    """One measurement, which reports its progress.

    Args:
      name: of the benchmark.
      settings: its options.
      repetitions: rounds; None: ``REPETITIONS``.
      quick: take ``QUICK`` rounds.
      out: folder for results; None: nothing is written.
      json: print JSON in place of tables.

    Attributes:
      rounds: samples of each case.
      facts: of the machine, after :meth:`begin`.

    Raises:
      UserError: the options contradict each other, or the folder cannot be written.
    """

    def __init__(
        self,
        name: str,
        settings: dict[str, Any],
        repetitions: int | None,
        quick: bool,
        out: Path | None,
        json: bool,
    ) -> None:
        if quick and repetitions is not None:
            raise UserError("--quick: it is a number of repetitions; give one of the two")
        self.rounds = repetitions or (QUICK if quick else REPETITIONS)
        self.name, self.settings, self.out, self.json = name, settings, out, json
        self.settings["repetitions"] = self.rounds
        self.facts: dict[str, Any] = {}
        width = None if sys.stdout.isatty() else WIDTH
        self.console = Console(width=width, highlight=False)
        self.errors = Console(stderr=True, highlight=False, soft_wrap=True)

    def begin(self) -> None:
        """Record the machine, and warn of other work."""
        from bmojo.benchmark import machine
        from bmojo.benchmark.results import write_folder

        if self.out is not None:
            write_folder(self.out)
        self.facts = machine.record()
        for warning in machine.warnings(self.facts):
            self.errors.print(f"warning: {warning}", style="bold yellow", markup=False)

    def tell(self, text: str) -> None:
        """Report progress."""
        self.errors.print(text, style="dim", markup=False)

    def require(self, checks: "list[Check]") -> "list[Check]":
        """The checks if all passed; otherwise they are shown.

        Raises:
          WrongError: some did not.
        """
        from bmojo.benchmark.cases import require
        from bmojo.benchmark.results import check_sheet

        if not all(check.passed for check in checks):
            self.errors.print(check_sheet(checks).table())
        require(checks)
        return checks

    def choose(
        self,
        names: "Sequence[str]",
        dimensions: "Dimensions",
        overrides: "Sequence[str] | None" = (),
    ) -> "list[Candidate]":
        """The models of some names, with equal parameters."""
        from bmojo.benchmark.models import choose

        return choose(names, dimensions, overrides or ())

    def check_each(
        self, chosen: "Sequence[Candidate]", check: "Callable[[Candidate], list[Check]]"
    ) -> "list[Check]":
        """The checks of each model; those of one must pass before those of the next."""
        checks: list[Check] = []
        for model in chosen:
            self.tell(f"checking {model.name}")
            checks += self.require(check(model))
        return checks

    def check_segments(self, chosen: "Sequence[Candidate]", length: int) -> "list[Check]":
        """The checks of each model that its logits do not depend on segments."""
        from bmojo.benchmark.models import check_segments

        return self.check_each(chosen, lambda model: [check_segments(model, length)])

    def end(
        self,
        checks: "list[Check]",
        cases: "list[Case]",
        length: int,
        width: int,
        conclude: "Callable[[Sequence[Row]], Sequence[str]]" = lambda rows: (),
    ) -> None:
        """Time the cases and the machine, show and write the results.

        Raises:
          WrongError: a check has failed.
        """
        from bmojo.benchmark.machine import calibration, check_calibration
        from bmojo.benchmark.results import measure

        self.require(checks)
        self.tell("calibrating the machine")
        ours = self.require(check_calibration())
        every = [*cases, *calibration(length, width)]
        self.tell(f"timing {len(every)} cases in {self.rounds} rounds")
        with self._progress(len(every) * (self.rounds + 1)) as done:
            found = measure(
                self.name, self.settings, self.facts, ours, every, self.rounds, done, conclude
            )
        self._show(dataclasses.replace(found, checks=(*checks, *ours)))

    @contextlib.contextmanager
    def _progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar on a terminal, a line at each tenth elsewhere."""
        if sys.stderr.isatty():
            with progress_bar("timing", total) as done:
                yield done
            return
        seen = 0

        def count(more: int) -> None:
            nonlocal seen
            before, seen = seen, seen + more
            if before * 10 // total < seen * 10 // total:
                self.tell(f"{seen * 100 // total} %")

        yield count

    def _show(self, results: "Results") -> None:
        from bmojo.benchmark.results import save, sheets

        if self.json:
            print(results.as_json(), end="")
        else:
            for sheet in sheets(results):
                self.console.print(sheet.table())
            for note in results.notes:
                self.console.print(note, markup=False, soft_wrap=True)
        if self.out is not None:
            for path in save(results, self.out):
                self.errors.print(str(path), markup=False)
