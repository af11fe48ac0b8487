"""Time and temporary memory of training against the length of the sequences."""

import time
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.models import Chosen
from bmojo.benchmark.results import Row
from bmojo.benchmark.statistics import exponent
from bmojo.benchmark.steps import Training

__all__ = ["conclude", "growth", "length_cases"]

NEAR = 0.1
"""An exponent this near to a whole number is called by its name."""

Tell = Callable[[str], None]


def length_cases(
    models: Sequence[Chosen],
    lengths: Sequence[int],
    segment: int,
    batch: int = 1,
    tell: Tell = lambda text: None,
) -> tuple[list[Case], list[Check]]:
    """Training steps on whole sequences, and on their last segments with the state carried.

    The state before the last segment is that of training steps on all segments before it, on
    the same tokens again and again. Every sample starts from it anew.

    Args:
      models: what is trained.
      lengths: of sequences, multiples of ``segment``.
      segment: tokens of a segment.
      batch: rows.
      tell: called with what is being done.

    Returns:
      The cases, and for each model the check that the loss of its shortest sequence is that of
      the same tokens read in segments.
    """
    cases, checks = [], []
    for chosen in models:
        for length in sorted(lengths):
            tell(f"compiling {chosen.name}, {length:,} tokens")
            training = Training(chosen, batch, length)
            if length == min(lengths):
                read = training.segment_loss(segment)
                training.step()
                what = f"loss of {length} tokens at once and in segments of {segment}"
                found = difference(training.loss, read)
                checks.append(Check(chosen.name, what, found, limit(chosen.config.dtype)))
            cases.append(_case(chosen, training, training.step, length, batch, None))
        for length in sorted(lengths):
            tell(f"training {chosen.name} up to the last segment of {length:,} tokens")
            training = Training(chosen, batch, segment, capacity=length)
            for _ in range(length // segment - 1):
                training.step()
            cases.append(_case(chosen, training, _again(training), length, batch, segment))
    return cases, checks


def _again(training: Training) -> Callable[[], float]:
    """A step from the state as it is now, however often; returns its seconds."""
    before = training.carried

    def run() -> float:
        training.carried = jax.block_until_ready(jax.tree.map(jnp.copy, before))
        began = time.perf_counter()
        training.step()
        return time.perf_counter() - began

    training.carried = None
    return run


def _case(
    chosen: Chosen,
    training: Training,
    run: Callable[[], float | None],
    length: int,
    batch: int,
    segment: int | None,
) -> Case:
    tokens = batch * (segment or length)
    kind = "whole sequences" if segment is None else f"last segment of {segment:,} tokens"
    return Case(
        f"{length:,} tokens",
        f"{chosen.name}, {kind}",
        run,
        flops=3.0 * tokens * chosen.flops(length) if segment is None else None,
        facts={"length": length, "tokens in a step": tokens},
        **training.program.facts(),
    )


def growth(power: float | None, of: str = "length") -> str:
    """An exponent in words: how something grows with ``of``."""
    if power is None:
        return f"not to be told from one {of}"
    for whole, word in ((0, "constant"), (1, "linear"), (2, "quadratic")):
        if abs(power - whole) <= NEAR:
            return f"{word} ({of}^{power:.2f})"
    return f"{of}^{power:.2f}"


def conclude(rows: Sequence[Row]) -> list[str]:
    """For each table, how time and temporary memory grow with the length."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        if "length" in row.facts:
            groups.setdefault(row.group, []).append(row)
    notes = []
    for group, found in groups.items():
        lengths = [row.facts["length"] for row in found]
        taken = growth(exponent(lengths, [row.seconds.median for row in found]))
        memory = [row.temporary_bytes for row in found if row.temporary_bytes is not None]
        held = growth(exponent(lengths, memory)) if len(memory) == len(found) else "not told"
        notes.append(f"{group}: time of a step is {taken}, temporary memory {held}")
    return notes
