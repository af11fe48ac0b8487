"""``python -m neuron.estimates``: what kernels cost at the size of a 130M model, by the emulator.

Rules of thumb, no measurement: see docs/trainium.md.
"""

import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from neuron.emulator import simulate
from neuron.emulator.cost import Report
from neuron.kernels.scan import selective_scan, tile_columns
from neuron.kernels.scan_backward import selective_scan_backward
from neuron.kernels.ssd import ssd

CHANNELS, STATES, LENGTH = 1536, 16, 512


def _draw(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _scan_operands() -> list[Any]:
    step = np.full((1, CHANNELS, LENGTH), 0.01, np.float32)
    rate = -np.tile(np.arange(1, STATES + 1, dtype=np.float32), (CHANNELS, 1))
    maps = [_draw(1, STATES, LENGTH) for _ in range(2)]
    return [_draw(1, CHANNELS, LENGTH), step, rate, *maps]


def scan() -> tuple[Report, dict[str, float]]:
    """Forward: two passes of VectorE over two tensors for each state are its scan."""
    run = simulate(selective_scan)
    run(*_scan_operands(), np.zeros((1, CHANNELS, STATES), np.float32))
    least = 4 * (3 * CHANNELS * LENGTH + 2 * STATES * LENGTH + 3 * CHANNELS * STATES)
    return run.reports[0], {"hbm": least}


def scan_backward() -> tuple[Report, dict[str, float]]:
    """Backward."""
    run = simulate(selective_scan_backward)
    tiles = -(-LENGTH // tile_columns(STATES))
    run(
        *_scan_operands(),
        _draw(1, tiles, CHANNELS, STATES),
        _draw(1, CHANNELS, LENGTH),
        _draw(1, CHANNELS, STATES),
    )
    least = 4 * (5 * CHANNELS * LENGTH + 4 * STATES * LENGTH + (4 + tiles) * CHANNELS * STATES)
    return run.reports[0], {"hbm": least}


HEADS, WIDTH, SSD_STATES = 12, 128, 64


def _ssd_operands(dtype: Any) -> list[Any]:
    step = np.full((1, LENGTH, HEADS), 0.01, np.float32)
    rate = -np.arange(1, HEADS + 1, dtype=np.float32)
    maps = [_draw(1, LENGTH, SSD_STATES).astype(dtype) for _ in range(2)]
    return [_draw(1, LENGTH, HEADS, WIDTH).astype(dtype), step, rate, *maps]


def ssd_forward(dtype: Any = np.float32) -> tuple[Report, dict[str, float]]:
    run = simulate(ssd)
    run(*_ssd_operands(dtype), _draw(1, HEADS, WIDTH, SSD_STATES))
    size = HEADS * WIDTH * (2 * LENGTH) + 2 * LENGTH * SSD_STATES
    return run.reports[0], {"hbm": size * np.dtype(dtype).itemsize + 4 * (HEADS * LENGTH + 2 * HEADS * WIDTH * SSD_STATES)}


def ssd_forward_bf16():
    return ssd_forward(ml_dtypes.bfloat16)


def main() -> None:
    """Print a table for each kernel."""
    cases: list[Callable[[], tuple[Report, dict[str, float]]]] = [ssd_forward, ssd_forward_bf16] if len(sys.argv)>1 else [scan, scan_backward]
    for case in cases:
        report, bounds = case()
        print(case.__name__)
        print(report.table())
        print(f"HBM {report.hbm_read + report.hbm_written} of at least {bounds['hbm']:.0f} bytes\n")
        for op, n in report.ops.items():
            print("   ", op, n)


if __name__ == "__main__":
    sys.exit(main())
