"""Files of a memory report: RUN/memory/NAME/{index.html, memory.json, *.png}."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bmojo.errors import UserError
from bmojo.evaluation.figures import png
from bmojo.evaluation.memory.figures import draw
from bmojo.evaluation.memory.page import page
from bmojo.evaluation.memory.text import Piece
from bmojo.evaluation.memory.trace import Layer, Memory
from bmojo.files import write_atomically
from bmojo.ops.masks import TIERS

FIGURES = ("innovation", "slots", "tiers", "ages")


def write(run: Path, name: str, step: int, memory: Memory, pieces: Sequence[Piece]) -> Path:
    """Write the report of a text of some name; it replaces an earlier one of the same name.

    Returns:
      The page, index.html.

    Raises:
      UserError: the folder cannot be written.
    """
    folder = run / "memory" / (re.sub(r"[^\w.-]+", "-", name).strip(".-") or "text")
    figures = {key: (png(figure, 110), words) for key, (figure, words) in draw(memory).items()}
    title = f"Memory of {run.resolve().name} while reading {name}"
    layers = len(memory.layers) + len(memory.without)
    facts = f"step {step:,}, {len(memory.tokens):,} tokens, {layers} layers, read in float32"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for key in FIGURES:
            path = folder / f"{key}.png"
            if key in figures:
                write_atomically(path, figures[key][0])
            else:
                path.unlink(missing_ok=True)
        found = {"text": name, "step": step, **numbers(memory)}
        write_atomically(folder / "memory.json", json.dumps(found, allow_nan=False) + "\n")
        path = folder / "index.html"
        write_atomically(path, page(title, facts, memory, pieces, figures))
    except OSError as error:
        raise UserError(
            f"{folder}: the report cannot be written ({error.strerror}); make room, or make the "
            "run's directory writable"
        ) from None
    return path


def numbers(memory: Memory) -> dict[str, Any]:
    """All numbers of the report, for other programs.

    ``attention`` has for each tier a list over heads of shares by octave of distance (0, 1,
    2 .. 3, 4 .. 7, ...); ``slots`` a row [position, entered, left] for each token that was
    ever in the frozen slots, ``left`` null if it stayed.
    """
    return {
        "tokens": memory.tokens.tolist(),
        "layers": [_numbers(layer) for layer in memory.layers],
        "without": [{"layer": number, "kind": kind} for number, kind in memory.without],
    }


def _numbers(layer: Layer) -> dict[str, Any]:
    return {
        "layer": layer.number,
        "kind": layer.kind,
        "chunk": layer.chunk or None,
        "attention": {TIERS[tier]: _short(layer.spread[:, tier]) for tier in layer.tiers},
        "mass": {TIERS[tier]: _short(layer.mass[:, tier]) for tier in layer.tiers},
        "innovation": _short(layer.innovation),
        "kept": layer.kept.tolist(),
        "slots": [[stay.position, stay.entered, stay.left] for stay in layer.tenancies()],
    }


def _short(values: np.ndarray) -> Any:
    """Nested lists, to six digits."""
    if values.ndim > 1:
        return [_short(row) for row in values]
    return [float(f"{value:.6g}") for value in values.tolist()]
