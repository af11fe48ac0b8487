"""Sweeps and their cells, from a gin file. Nothing here trains or touches a run."""

import dataclasses
import itertools
import re
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bmojo import config
from bmojo.config.parse import Place, display, find
from bmojo.errors import ConfigError, UserError, suggestion

__all__ = ["REGISTRY", "Cell", "Plan", "Sweep", "cells", "read"]


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Training runs that belong together: configs x models x cells x grid x seeds.

    The run of a cell is called CONFIG-MODEL-CELL-KEYVALUE-seedN, as far as it has these parts;
    with models, a sole config is left out.

    Attributes:
      configs: experiments, looked for like includes of the sweep's file.
      seeds: each cell is run with every one.
      cells: variants of each config, as tuples of a name and overrides as on the command line,
        'KEY=VALUE' or a gin file. The name '' adds nothing to the run's name. Without cells
        each config is run as it is.
      grid: values by binding; all combinations are run. A string that starts with @ or % is a
        reference or a macro; one that ends in .gin is an overlay, whatever its key.
      labels: the word for a key of the grid in the names of runs; otherwise its parameter.
      models: gin files with a model, each trained on every config. Without them a config
        trains its own.
      overrides: common to all cells, before their own.
      out: the folder of the runs; None: runs/NAME after the sweep's file.
    """

    configs: tuple[str, ...]
    seeds: tuple[int, ...] = (0,)
    cells: tuple[tuple[str, ...], ...] = ()
    grid: dict[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    labels: dict[str, str] = dataclasses.field(default_factory=dict)
    models: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    out: str | None = None

    def __post_init__(self) -> None:
        for name in ("configs", "seeds", "models"):
            values = getattr(self, name)
            if not values and name != "models":
                raise ValueError(f"{name}: is empty; give at least one")
            if len(set(values)) < len(values):
                raise ValueError(f"{name}: {values!r} names one of them twice; remove it")
        for model in self.models:
            if not _is_file(model):
                raise ValueError(f"models: {model!r} is no gin file; give a name that ends in .gin")
        if min(self.seeds) < 0:
            raise ValueError(f"seeds: {min(self.seeds)} is too small; give at least 0")
        for cell in self.cells:
            if not cell or not re.fullmatch(r"[\w.+-]*", cell[0]):
                raise ValueError(
                    f"cells: {cell!r} does not start with a name; give letters, digits and "
                    ". + - _, then the overrides"
                )
        for key, values in self.grid.items():
            if not isinstance(key, str):
                raise TypeError(f"grid: the key {key!r} is not a string; quote it")
            if not isinstance(values, tuple) or not values:
                raise ValueError(
                    f"grid: {key!r} has {values!r}; give a tuple of values, such as (1, 2)"
                )
        for key, label in self.labels.items():
            if key not in self.grid:
                raise ValueError(
                    f"labels: {key!r} is not in the grid; {suggestion(key, self.grid)}"
                )
            if not isinstance(label, str):
                raise TypeError(f"labels: {label!r} is not a string; quote it")
        own = itertools.chain.from_iterable(cell[1:] for cell in self.cells)
        for name, words in (("overrides", self.overrides), ("cells", own), ("grid", self.grid)):
            if _bind_seed(words):
                raise ValueError(f"{name}: Trainer.seed is bound; give seeds in Sweep.seeds")


@dataclasses.dataclass(frozen=True)
class Cell:
    """One training run of a sweep.

    Attributes:
      run: its run directory, with a name that is unique in the sweep.
      config: an experiment's gin file.
      overlays: further gin files, each overriding those before.
      bindings: 'KEY=VALUE', the last to count.
      seed: ``Trainer.seed``.
      steps: of the whole run; 0 where :func:`bmojo.sweep.check.check` has not seen it.
      state: 'finished', 'unfinished' or 'new'.
    """

    run: Path
    config: str
    overlays: tuple[str, ...] = ()
    bindings: tuple[str, ...] = ()
    seed: int = 0
    steps: int = 0
    state: str = "new"

    @property
    def name(self) -> str:
        """The name of the run."""
        return self.run.name

    @property
    def unseeded(self) -> str:
        """The name without the seed."""
        return self.name.removesuffix(f"-seed{self.seed}")

    @property
    def variant(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """Everything but name and seed."""
        return self.config, self.overlays, self.bindings

    @property
    def seeded(self) -> tuple[str, ...]:
        """The bindings with the seed."""
        return *self.bindings, f"Trainer.seed={self.seed}"

    def arguments(self) -> list[str]:
        """The arguments of ``bmojo`` that train this cell."""
        options = ["--seed", str(self.seed), "--run-dir", str(self.run)]
        return ["train", self.config, *self.overlays, *self.bindings, *options]

    def command(self) -> str:
        """The command line that trains this cell."""
        return shlex.join(["bmojo", *self.arguments()])


@dataclasses.dataclass(frozen=True)
class Plan:
    """A sweep that was read: its file, the folder of its runs, and these, seed after seed."""

    path: Path
    out: Path
    cells: tuple[Cell, ...]


REGISTRY = config.Registry()
"""The names that files of sweeps may use."""
REGISTRY.register("Sweep", Sweep)


def read(path: str | Path, words: Sequence[str] = (), out: Path | None = None) -> Plan:
    """Read a sweep from a gin file or a name under ``configs/``; a ConfigError names the place.

    Of the overrides, 'Sweep.NAME=VALUE' changes the sweep, any other binding and any gin file
    goes to every cell after its own. ``out`` is the folder of the runs; None: the sweep's.
    """
    own = [word for word in words if re.match(r"\s*Sweep\.", word)]
    overlays, bindings = _split([word for word in words if word not in own])
    sweep: Sweep = config.load(REGISTRY, "Sweep", [path], own).value
    file = find(str(path), Path.cwd())
    last = (*(str(find(name, Path.cwd())) for name in overlays), *bindings)
    if _bind_seed(last):
        raise UserError("command line: seeds are the sweep's; give 'Sweep.seeds=(0, 1)'")
    folder = out or Path(sweep.out or Path("runs") / file.stem)
    return Plan(file, folder, tuple(cells(sweep, file, folder, last)))


def cells(sweep: Sweep, file: Path, out: Path, last: Sequence[str] = ()) -> Iterator[Cell]:
    """The runs of a sweep in ``out``: for each seed, config, model, cell and point of the grid.

    Gin files are looked for from the sweep's ``file``; the overrides ``last`` go after each
    cell's own.

    Raises:
      ConfigError: a gin file is missing, or two runs have one name.
    """
    seen: dict[str, Cell] = {}
    variants = sweep.cells or (("",),)
    trained = [*itertools.product(sweep.configs, sweep.models or ("",))]
    for seed, (name, model), variant in itertools.product(sweep.seeds, trained, variants):
        for point in itertools.product(*sweep.grid.values()):
            task = "" if model and len(sweep.configs) == 1 else Path(name).stem
            parts = [task, Path(model).stem, variant[0]]
            words = [*filter(None, [model]), *sweep.overrides, *variant[1:]]
            for key, value in zip(sweep.grid, point, strict=True):
                parts.append(_part(sweep, key, value))
                words.append(value if _is_file(value) else f"{key}={_text(value)}")
            overlays, bindings = _split([*words, *last])
            run = out / "-".join([*filter(None, parts), f"seed{seed}"])
            found = tuple(_found(overlay, file) for overlay in overlays)
            cell = Cell(run, _found(name, file), found, tuple(bindings), seed)
            other = seen.setdefault(cell.name, cell)
            if other is not cell:
                raise ConfigError(
                    f"{display(file)}: two runs are called {cell.name!r}: {_shown(other)} and "
                    f"{_shown(cell)}; give them names of their own in Sweep.cells or Sweep.labels"
                )
            yield cell


def _split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Overlay files and bindings."""
    overlays = [word for word in words if _is_file(word)]
    return overlays, [word for word in words if not _is_file(word)]


def _bind_seed(words: Iterable[str]) -> bool:
    return any(word.partition("=")[0].strip() == "Trainer.seed" for word in words)


def _is_file(value: Any) -> bool:
    return isinstance(value, str) and value.endswith(".gin") and "=" not in value


def _found(name: str, file: Path) -> str:
    return display(find(name, file.parent, Place(file)))


def _shown(cell: Cell) -> str:
    return " ".join([cell.config, *cell.overlays, *cell.bindings])


def _text(value: Any) -> str:
    """A value of the grid as gin reads it."""
    return value if isinstance(value, str) and value.startswith(("@", "%")) else repr(value)


def _part(sweep: Sweep, key: str, value: Any) -> str:
    """The part of a run's name for a value of the grid."""
    if _is_file(value):
        return sweep.labels.get(key, "") + Path(value).stem
    last = [other.rpartition(".")[2] for other in sweep.grid]
    name = key.rpartition(".")[2]
    label = sweep.labels.get(key, name if last.count(name) == 1 else key)
    shown = re.sub(r"[^\w.+-]+", "_", str(value)).strip("_")
    number = isinstance(value, int | float) and not isinstance(value, bool)
    joined = f"{label}{shown}" if number or not label else f"{label}_{shown}"
    return re.sub(r"[^\w.+-]+", "_", joined)
