"""One measurement of `bmojo bench`: its progress, its tables, its files."""

import contextlib
import dataclasses
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo.benchmark import machine, models, results
from bmojo.benchmark.cases import Case, Check, require
from bmojo.benchmark.models import Candidate
from bmojo.console import line, make_console, progress_bar

WIDTH = 180  # of tables that go to a file


class Measurement:
    """One measurement, which reports its progress; ``facts`` are those of the machine."""

    def __init__(
        self, name: str, settings: dict[str, Any], rounds: int, out: Path | None, json: bool
    ) -> None:
        self.name, self.settings, self.rounds = name, {**settings, "repetitions": rounds}, rounds
        self.out, self.json = out, json
        self.facts: dict[str, Any] = {}
        self.console = make_console(width=None if sys.stdout.isatty() else WIDTH)
        self.errors = make_console(stderr=True, soft_wrap=True)

    def begin(self) -> None:
        """Record the machine, and warn of other work; the folder for results is made."""
        if self.out is not None:
            results.write_folder(self.out)
        self.facts = machine.record()
        for warning in machine.warnings(self.facts):
            self.errors.print(f"warning: {warning}", style="bold yellow")

    def tell(self, text: str) -> None:
        """Report progress."""
        self.errors.print(text, style="dim")

    def require(self, checks: list[Check]) -> list[Check]:
        """The checks if all passed; otherwise they are shown, and WrongError is raised."""
        if not all(check.passed for check in checks):
            self.errors.print(results.check_sheet(checks).table())
        require(checks)
        return checks

    def check_each(
        self, chosen: Sequence[Candidate], check: Callable[[Candidate], list[Check]]
    ) -> list[Check]:
        """The checks of each model; those of one must pass before those of the next."""
        checks: list[Check] = []
        for model in chosen:
            self.tell(f"checking {model.name}")
            checks += self.require(check(model))
        return checks

    def check_segments(self, chosen: Sequence[Candidate], length: int) -> list[Check]:
        """The checks of each model that its logits do not depend on segments."""
        return self.check_each(chosen, lambda model: [models.check_segments(model, length)])

    def end(
        self,
        checks: list[Check],
        cases: list[Case],
        length: int,
        width: int,
        conclude: Callable[[Sequence[results.Row]], Sequence[str]] = lambda rows: (),
    ) -> None:
        """Time the cases and the machine, show and write the results."""
        self.require(checks)
        self.tell("calibrating the machine")
        ours = self.require(machine.check_calibration())
        every = [*cases, *machine.calibration(length, width)]
        self.tell(f"timing {len(every)} cases in {self.rounds} rounds")
        with self._progress(len(every) * (self.rounds + 1)) as done:
            found = results.measure(
                self.name, self.settings, self.facts, ours, every, self.rounds, done, conclude
            )
        found = dataclasses.replace(found, checks=(*checks, *ours))
        if self.json:
            print(found.as_json(), end="")
        else:
            for sheet in results.sheets(found):
                self.console.print(sheet.table())
            for note in found.notes:
                line(self.console, note)
        for path in () if self.out is None else results.save(found, self.out):
            self.errors.print(str(path))

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
