"""Warm starts: the parameters of another run, or of a folder of Hugging Face, by their names.

``Trainer.init_from`` names the source, ``Trainer.init_names`` what is left out or renamed. What
the source lacks is drawn anew. Along an axis of the vocabulary sizes may differ: what both have is
taken, further words are drawn anew.
"""

import dataclasses
import functools
import json
import operator
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.export.huggingface import Folder
from bmojo.layers.protocol import parameter_axes
from bmojo.training.checkpoints import restore_parameters, steps_of
from bmojo.training.metrics import best_of
from bmojo.training.parameters import Parameters
from bmojo.training.run_dir import RunDir, RunError
from bmojo.training.run_setup import RunSetup

__all__ = ["WarmStart", "renamed"]

MEANING = ("tie_embeddings", "logit_scale", "norm_epsilon")
"""Fields of a model that parameters mean something else with."""

Shapes = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Source:
    """A source of parameters: its name, their shapes, how to read them, fields of its model."""

    name: str
    shapes: Shapes
    read: Callable[[], Mapping[str, Any]]
    fields: Mapping[str, Any]


class WarmStart:
    """What a run takes from the source of ``Trainer.init_from``; nothing is read yet.

    Attributes:
      taken: name here -> name there.
      left_out: names there that have no place here.
      anew: names here that the source lacks.
    """

    def __init__(self, setup: RunSetup) -> None:
        """Compare names and shapes.

        Raises:
          UserError: there is no such source, a shape differs, or nothing would be taken.
        """
        trainer = setup.trainer
        assert trainer.init_from is not None
        self._setup = setup
        self._source = _source(trainer.init_from, setup)
        self._axes = parameter_axes(nnx.eval_shape(setup.make))
        self.taken: dict[str, str] = {}
        self.left_out: list[str] = []
        for there in sorted(self._source.shapes):
            here = renamed(there, trainer.init_names)
            if here is None or here not in setup.shapes:
                self.left_out.append(there)
                continue
            if here in self.taken:
                raise RunError(
                    f"Trainer.init_names: {there} and {self.taken[here]} both become {here}; leave "
                    "one out with (NAME, None)"
                )
            self._check(here, there)
            self.taken[here] = there
        self.anew = sorted(setup.shapes.keys() - self.taken.keys())
        if not self.taken:
            raise RunError(
                f"Trainer.init_from: {self._source.name} has no parameter of this model; it has "
                f"{', '.join(sorted(self._source.shapes)[:3])}, ...; rename them with "
                "Trainer.init_names"
            )

    def _check(self, here: str, there: str) -> None:
        """Refuse a shape that differs elsewhere than along the vocabulary."""
        old, new = self._source.shapes[there], self._setup.shapes[here].shape
        free = [name == "vocab" for name in self._axes.get(here, ())] or [False] * len(new)
        same = len(old) == len(new) and all(
            a == b or any_size for a, b, any_size in zip(old, new, free, strict=True)
        )
        if not same:
            raise RunError(
                f"Trainer.init_from: {there} is {list(old)} in {self._source.name} and {list(new)} "
                f"here; leave it out with Trainer.init_names = (({there!r}, None),)"
            )

    def parameters(self, drawn: Parameters) -> Parameters:
        """New parameters with those of the source in their places, each where it lies."""
        found, values = dict(drawn), self._source.read()
        for here, there in self.taken.items():
            new = drawn[here]
            value = np.asarray(values[there]).astype(new.dtype)
            if value.shape != new.shape:
                whole = np.array(new)
                part = tuple(map(slice, map(min, value.shape, new.shape)))
                whole[part] = value[part]
                value = whole
            pick: Any = functools.partial(operator.getitem, value)
            found[here] = jax.make_array_from_callback(new.shape, new.sharding, pick)
        return found

    def lines(self) -> list[str]:
        """A table of what is taken, left out and drawn anew, and differences that matter."""
        numbers = sum(int(np.prod(self._setup.shapes[name].shape)) for name in self.taken)
        rows = [
            f"init_from {self._source.name}: {len(self.taken)} parameters taken ({numbers:,} "
            f"numbers), {len(self.left_out)} left out, {len(self.anew)} drawn anew"
        ]
        for here, there in sorted(self.taken.items()):
            old, new = self._source.shapes[there], tuple(self._setup.shapes[here].shape)
            size = f"{list(new)}" if old == new else f"{list(old)} of {list(new)}"
            rows.append(
                f"  taken       {here} {size}" + (f" from {there}" if there != here else "")
            )
        for name in self.left_out:
            rows.append(f"  left out    {name} {list(self._source.shapes[name])}")
        for name in self.anew:
            rows.append(f"  drawn anew  {name} {list(self._setup.shapes[name].shape)}")
        for field, there in self._source.fields.items():
            here = getattr(self._setup.experiment.model, field, there)
            if here != there:
                rows.append(f"  differs     Model.{field}: {there!r} there, {here!r} here")
        return rows


def renamed(name: str, pairs: tuple[Any, ...]) -> str | None:
    """The name here of a parameter there by the first pattern that fits; None: it is left out.

    A pattern may have one ``*``, which stands for what the replacement's has.
    """
    for pattern, replacement in pairs:
        expression = "(.*)".join(map(re.escape, pattern.split("*", 1)))
        if (found := re.fullmatch(expression, name)) is not None:
            if replacement is None:
                return None
            return replacement.replace("*", found[1], 1) if found.groups() else replacement
    return name


def _source(init_from: str, setup: RunSetup) -> Source:
    if init_from.startswith("hf:"):
        folder = Folder(Path(init_from[3:]).expanduser())
        shapes = {name: tuple(x.shape) for name, x in folder.shapes.items()}
        fields = {name: getattr(folder.config, name) for name in MEANING}
        return Source(init_from, shapes, folder.parameters, fields)
    path, at, wanted = init_from.rpartition("@")
    if not at or "/" in wanted:
        path, wanted = init_from, ""
    run = RunDir(path)
    if not run.config.is_file():
        raise RunError(
            f"Trainer.init_from: {path}: no run is here (no config.gin); give RUN, RUN@STEP or "
            "hf:FOLDER"
        )
    text = run.config.read_text(encoding="utf8")
    step = _step(run, wanted, text)
    stored = json.loads((run.checkpoints / str(step) / "shapes" / "metadata").read_text())
    shapes = {name: tuple(shape) for name, shape in stored.items()}
    dtype = next(iter(setup.shapes.values())).dtype
    expected: Any = {n: jax.ShapeDtypeStruct(shape, dtype) for n, shape in shapes.items()}

    def read() -> Parameters:
        return restore_parameters(run.checkpoints, expected, step)[1]

    return Source(f"{path}, step {step}", shapes, read, _fields(text))


def _step(run: RunDir, wanted: str, config: str) -> int:
    """The step of a checkpoint: a number, 'best', or the newest."""
    steps = steps_of(run.checkpoints)
    if wanted == "best":
        best = re.search(r"^Trainer\.best = '(.*)'$", config, re.MULTILINE)
        found = None if best is None else best_of(run, best[1]).step
        if found is None:
            raise RunError(f"Trainer.init_from: {run.path} has no best evaluation; give a step")
        return found
    if not wanted:
        return steps[-1]
    if not wanted.isdecimal() or int(wanted) not in steps:
        raise RunError(
            f"Trainer.init_from: {run.path} has no checkpoint of step {wanted}; take one of "
            f"{', '.join(map(str, steps))}, or best"
        )
    return int(wanted)


def _fields(config: str) -> dict[str, Any]:
    """The fields of :data:`MEANING` in the text of a run's config, as far as it has them."""
    found = {}
    for field in MEANING:
        line = re.search(rf"^Model\.{field} = (.*)$", config, re.MULTILINE)
        if line is not None:
            try:
                found[field] = json.loads(line[1].replace("None", "null").lower())
            except ValueError:
                raise UserError(f"Model.{field}: {line[1]} is no value; mend config.gin") from None
    return found
