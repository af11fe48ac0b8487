"""Parts of a layer judged by the machine's own rates, of matrix products and of copies."""

import dataclasses
from typing import Any

from bmojo.benchmark.machine import CALIBRATION
from bmojo.benchmark.results import Results, Row, Sheet
from scripts.performance.beside import BESIDE
from scripts.performance.programs import WHOLE_LAYER

TITLES = {"mamba": "B'MOJO, Mamba's cell", "mamba2": "B'MOJO, Mamba-2's cell"}
GROUPS = (*TITLES.values(), BESIDE)
AT_GEMM, AT_COPY, SLOWER = "ms at GEMM's rate", "ms at the copy's rate", "time / longer of both"
SHARE, INTENSITY = "% of the parts", "FLOPs / byte"
BRIEF = ("case", "what", "ms", "of GEMM", SHARE, AT_GEMM, AT_COPY, SLOWER, "rate", "in")
"""Columns on the terminal."""


def judged(results: Results) -> Results:
    """With the time of each part at the machine's own rates, and sums."""
    rate = copy_rate(results)
    rows, notes = [], []
    for group, members in results.groups().items():
        if group == CALIBRATION:
            rows += members
            continue
        parts = [row for row in members if row.case != WHOLE_LAYER]
        total = sum(row.seconds.median for row in parts)
        rows += [_judge(row, total, rate) for row in members]
        for whole in members:
            if whole.case == WHOLE_LAYER:
                notes.append(
                    f"{group}: the parts add up to {total * 1e3:.1f} ms, the whole layer takes "
                    f"{whole.seconds.median * 1e3:.1f} ms"
                )
    return dataclasses.replace(results, rows=tuple(rows), notes=(*results.notes, *notes))


def _judge(row: Row, total: float, rate: float) -> Row:
    moved, seconds = row.facts["bytes"], row.seconds.median
    copied = moved / rate
    at_gemm = None if row.gemm_fraction is None else seconds * row.gemm_fraction.median
    facts: dict[str, Any] = {
        SHARE: None if row.case == WHOLE_LAYER else 100 * seconds / total,
        AT_GEMM: None if at_gemm is None else at_gemm * 1e3,
        AT_COPY: copied * 1e3,
        SLOWER: seconds / max(at_gemm or 0.0, copied),
        "MiB moved": moved / 2**20,
        INTENSITY: None if row.flops is None else row.flops / moved,
    }
    return dataclasses.replace(row, facts=facts)


def copy_rate(results: Results) -> float:
    """Bytes a second that a copy reads and writes."""
    row = next(row for row in results.rows if row.case.startswith("copy"))
    return row.facts["work"] / row.seconds.median


def gemm_rate(results: Results) -> float:
    """Operations a second of the fastest matrix product."""
    row = next(row for row in results.rows if row.case == results.gemm)
    assert row.gflops is not None
    return row.gflops.median * 1e9


def brief(sheet: Sheet) -> Sheet:
    """The columns that a terminal has room for."""
    kept = [index for index, name in enumerate(sheet.head) if name in BRIEF]
    head, *lines = (tuple(line[index] for index in kept) for line in (sheet.head, *sheet.lines))
    return Sheet(sheet.title, head, tuple(lines))
