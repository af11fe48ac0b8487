"""Runs of a report: search, files, and pooling over seeds."""

import dataclasses
import json
import re
import statistics
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bmojo.errors import UserError
from bmojo.evaluation.bindings import bindings, distinguishing, shown
from bmojo.training.metrics import Record, read_metrics, verify_metrics
from bmojo.training.run_dir import RunDir, RunError

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Run:
    """Files of one run directory: bindings of ``config.gin``, and ``summary.json``.

    ``summary`` is None where the run is not finished. ``metrics`` are lines of ``metrics.jsonl``
    during training, ``evaluations`` its others, ``speed`` those of ``speed.jsonl``; ``perplexity``
    is the content of ``evaluation/perplexity.json``, empty if there is none.
    """

    path: Path
    bindings: Mapping[str, str]
    summary: Mapping[str, Any] | None
    metrics: Sequence[Record]
    evaluations: Sequence[Record]
    speed: Sequence[Record]
    perplexity: Mapping[str, Any]

    @property
    def seed(self) -> int | None:
        """``Trainer.seed``."""
        seeds = [value for key, value in self.bindings.items() if _is_seed(key)]
        return int(seeds[0]) if seeds else None

    @property
    def name(self) -> str:
        """The name of the directory without ``-seedN``."""
        return re.sub(r"-seed\d+$", "", self.path.name)

    def number(self, name: str) -> float | None:
        """A number of the summary, such as ``parameters``; None if it has none of that name."""
        value = (self.summary or {}).get(name)
        return value if isinstance(value, int | float) else None

    def rows(self) -> list[Row]:
        """Rows of the last evaluations."""
        return (self.summary or {}).get("evaluations", [])

    def measured(self, evaluation: str, group: int | None, name: str) -> float | None:
        """A number of an evaluation for a group (None: over all); None if it has none."""
        for row in self.rows():
            if row["evaluation"] == evaluation and row["group"] == group:
                return row.get(name)
        return None

    def training_loss(self) -> float | None:
        """Loss at the end of training."""
        return (self.summary or {}).get("final", {}).get("loss")

    def tokens_per_second(self) -> float | None:
        """The median over the lines of ``speed.jsonl``."""
        values = [line["tokens_per_second"] for line in self.speed if line.get("tokens_per_second")]
        return statistics.median(values) if values else None


@dataclasses.dataclass(frozen=True)
class Cell:
    """Finished runs that differ in their seed only, which rises; with a label of their own."""

    label: str
    runs: tuple[Run, ...]

    def groups(self, evaluation: str) -> list[int]:
        """Groups of an evaluation, in rising order."""
        rows = [row for run in self.runs for row in run.rows() if row["evaluation"] == evaluation]
        return sorted({row["group"] for row in rows} - {None})


@dataclasses.dataclass(frozen=True)
class Spread:
    """A number over seeds: mean, lowest and highest, and the count of seeds."""

    mean: float
    low: float
    high: float
    count: int


def spread(runs: Iterable[Run], number: Callable[[Run], float | None]) -> Spread | None:
    """A number over runs; those that have none are left out, and None if none has."""
    values = [value for value in map(number, runs) if value is not None]
    if not values:
        return None
    # the mean of equal numbers is that number, to the last bit
    mean = values[0] if len(set(values)) == 1 else statistics.fmean(values)
    return Spread(mean, min(values), max(values), len(values))


def evaluations_of(cells: Iterable[Cell]) -> list[str]:
    """Names of the evaluations of cells."""
    rows = (row for cell in cells for run in cell.runs for row in run.rows())
    return list(dict.fromkeys(row["evaluation"] for row in rows))


def collect(paths: Sequence[str | Path]) -> list[Run]:
    """Read each run once, in the order of the paths, and in a folder of names, 8 before 16.

    Paths are run directories, or folders that hold some at any depth. A run that ``--fresh`` has
    moved aside (``NAME.oldN``) is read only if it is named itself. Files ``NAME.log`` of a sweep
    may be among them, as a shell gives them for ``runs/bmojo-*``; they are left out.

    Raises:
      UserError: a path does not exist or has no runs, or a file of a run cannot be read.
    """
    found: dict[Path, Run] = {}
    for path in map(Path, paths):
        if path.suffix == ".log" and path.is_file():
            continue
        if not path.is_dir():
            raise UserError(f"{path}: no such directory; give run directories, or folders of them")
        directories = [path] if _is_run(path) else list(_search(path))
        if not directories:
            raise UserError(f"{path}: no runs are here; train some with bmojo train or bmojo sweep")
        for directory in directories:
            if directory.resolve() not in found:
                found[directory.resolve()] = _read_run(directory)
    if not found:
        raise UserError("no runs are here; give run directories, or folders of them")
    return list(found.values())


def pool(runs: Sequence[Run]) -> list[Cell]:
    """Finished runs pooled over seeds, in the order of their first run.

    A cell is labelled with the name that its directories share, without ``-seedN``; if one of
    the cells has no such name for itself, all are labelled with the bindings by which
    they differ. Of runs with equal configs, seeds too, the first counts.
    """
    cells: dict[tuple, dict[int, Run]] = {}
    for run in runs:
        if run.summary is not None:
            seed = -1 if run.seed is None else run.seed
            cells.setdefault(tuple(without_seed(run.bindings).items()), {}).setdefault(seed, run)
    pooled = [tuple(run for _, run in sorted(by_seed.items())) for by_seed in cells.values()]
    return [Cell(label, runs) for label, runs in zip(_labels(pooled), pooled, strict=True)]


def _labels(cells: Sequence[tuple[Run, ...]]) -> list[str]:
    names = [{run.name for run in runs} for runs in cells]
    taken = [name for shared in names for name in shared]
    hashed = any(re.search(r"-[0-9a-f]{6}$", name) for name in taken)
    if len(taken) == len(cells) == len(set(taken)) and not hashed:
        return taken
    configs = [without_seed(runs[0].bindings) for runs in cells]
    labels = [shown(config, distinguishing(configs)) for config in configs]
    return [label or runs[0].name for label, runs in zip(labels, cells, strict=True)]


def without_seed(bindings: Mapping[str, str]) -> dict[str, str]:
    """Bindings but for ``Trainer.seed``."""
    return {key: value for key, value in bindings.items() if not _is_seed(key)}


def _is_seed(key: str) -> bool:
    return key.rpartition("/")[2] == "Trainer.seed"


def _is_run(path: Path) -> bool:
    return (path / "config.gin").is_file() or (path / "summary.json").is_file()


def _search(folder: Path) -> Iterator[Path]:
    for entry in sorted(folder.iterdir(), key=_natural):
        aside = re.search(r"\.old\d+$", entry.name) is not None
        if entry.is_dir() and not entry.name.startswith(".") and not aside:
            yield from [entry] if _is_run(entry) else _search(entry)


def _natural(path: Path) -> list[tuple[int, float | str]]:
    parts = re.split(r"(\d+(?:\.\d+)?)", path.name)
    return [(0, float(part)) if part[0].isdigit() else (1, part) for part in parts if part]


def _read_run(path: Path) -> Run:
    try:
        verify_metrics(RunDir(path))
    except RunError as error:
        raise UserError(f"{error}, or leave this run out") from None
    lines = _read(path / "metrics.jsonl", read_metrics)
    summary = _json(path / "summary.json")
    for name, kind in (("status", str), ("step", int), ("evaluations", list), ("final", dict)):
        if summary is not None and not isinstance(summary.get(name), kind):
            raise UserError(
                f"{path / 'summary.json'}: has no {name!r}; it is not of a run of bmojo train, "
                "leave it out"
            )
    return Run(
        path,
        bindings(_read(path / "config.gin")),
        summary if summary is not None and summary["status"] == "finished" else None,
        [line for line in lines if "evaluation" not in line],
        [line for line in lines if "evaluation" in line],
        _read(path / "speed.jsonl", read_metrics),
        _json(path / "evaluation" / "perplexity.json") or {},
    )


def _json(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        value = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path}: not readable as JSON ({error}); leave this run out") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: holds no JSON object; leave this run out")
    return value


def _read(path: Path, reader: Callable[[Path], Any] = lambda path: path.read_text("utf8")) -> Any:
    try:
        return reader(path)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{path}: cannot be read ({reason}); leave this run out") from None
