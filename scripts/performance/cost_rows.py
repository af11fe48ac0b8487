"""Lines of the tables of costs: a step of training, a decoded token."""

import itertools
from collections.abc import Callable, Mapping, Sequence

from bmojo.description import Description
from scripts.performance.chips import CHIPS, Shares
from scripts.performance.counts import elementwise, mixers, scores
from scripts.performance.work import SOFTMAX, TOKENS_OF_A_STEP, decoding, training

ROWS = 64
"""Rows of the second case of decoding."""


def lines(
    found: Mapping[str, Description],
    lengths: Sequence[int],
    shares: Shares,
    cells: Callable[[Description, int, Shares], list[str]],
) -> list[tuple[str, ...]]:
    """A line for each model and length, or for several lengths that do not differ."""
    made = []
    for name, description in found.items():
        rows = [(length, cells(description, length, shares)) for length in lengths]
        for shown, same in itertools.groupby(rows, key=lambda row: row[1]):
            between = [length for length, _ in same]
            reach = f"{between[0]:,}" + (f" to {between[-1]:,}" if len(between) > 1 else "")
            made.append((name, reach, *shown))
    return made


def training_cells(description: Description, length: int, shares: Shares) -> list[str]:
    work = training(description, length)
    layers = mixers(description)
    vector = sum(map(elementwise, layers)) + SOFTMAX * sum(scores(m, length) for m in layers)
    cells = [f"{description.flops_per_token(length) / 1e9:.2f}", f"{vector / 1e6:.2f}"]
    for chip in CHIPS:
        longer, alone, which = work.seconds(chip, shares)
        cells.append(f"{longer * 1e3:.0f} {which} + {alone * 1e3:.0f}")
        cells.append(f"{TOKENS_OF_A_STEP / (longer + alone):,.0f}")
    return cells


def decoding_cells(description: Description, length: int, shares: Shares) -> list[str]:
    state = description.memory(length)
    works = [decoding(description, length, rows, state) for rows in (1, ROWS)]
    cells = [f"{sum(state) / 2**20:.1f}"]
    for chip in CHIPS:
        for work in works:
            longer, alone, _ = work.seconds(chip, shares)
            cells.append(f"{(longer + alone) * 1e3:.3f}")
    return cells
