"""Losses of documents that are read several times, by what a verbatim read-out may read."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax import nnx

from bmojo.console import Progress, unseen
from bmojo.evaluation.streaming import stream_losses

__all__ = ["SEGMENT", "forms", "measure_forms", "rows", "with_readout"]

SEGMENT = 1024
"""Tokens that are read at once."""

SHUT = -1e9
"""Logit of a gate that lets nothing through."""

BLOCK = 1024
"""Tokens of a point of the curve."""


def forms(length: int) -> dict[str, dict[str, Any] | None]:
    """Options of a read-out by name, for documents of some length; None: its gate is shut."""
    matches = {"matches": 256, "capacity": max(length, 1)}
    return {"head alone": None, "as trained": {}, "with matches": matches}


def with_readout(model: Any, changes: Mapping[str, Any] | None) -> Any:
    """The model with the same parameters and other options of its read-out; None: with a shut gate.

    Nothing that is learned depends on ring, slots or matches.
    """
    config = dataclasses.replace(
        model.config, readout=dataclasses.replace(model.config.readout, **(changes or {}))
    )
    structure, _ = nnx.split(nnx.eval_shape(lambda: config.make(nnx.Rngs(0))))
    made = nnx.merge(structure, nnx.state(model))
    if changes is None:
        made.readout.gate = nnx.Param(np.full_like(made.readout.gate[...], SHUT))
    return made


def measure_forms(
    model: Any, documents: Sequence[Any], times: int = 2, progress: Progress = unseen
) -> dict[str, list[np.ndarray]]:
    """By form, the losses in nats of documents that are read ``times`` times in succession."""
    again = [np.concatenate([text, *[text[1:]] * (times - 1)]) for text in documents]
    found = {}
    for name, changes in forms(max(map(len, again))).items():
        made = with_readout(model, changes)
        found[name] = stream_losses(made, again, SEGMENT, len(again), progress)
    return found


def rows(
    found: Mapping[str, Sequence[np.ndarray]], times: int, bytes_read: int
) -> list[dict[str, Any]]:
    """Bits a byte by form and reading, of documents with ``bytes_read`` bytes in all."""
    made = []
    for name, losses in found.items():
        parts = [np.split(x, times) for x in losses]
        for reading in range(times):
            nats = sum(float(part[reading].sum(dtype=np.float64)) for part in parts)
            bits = nats / np.log(2) / bytes_read
            made.append({"form": name, "reading": reading + 1, "bits_per_byte": bits})
    return made


def curve(losses: Sequence[np.ndarray]) -> np.ndarray:
    """Mean bits a token by blocks, over the documents that reach so far."""
    longest = max(map(len, losses))
    padded = np.stack([np.pad(x, (0, longest - len(x)), constant_values=np.nan) for x in losses])
    ends = range(BLOCK, longest + 1, BLOCK)
    return np.array([np.nanmean(padded[:, end - BLOCK : end]) for end in ends]) / np.log(2)
