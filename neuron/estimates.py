"""``python -m neuron.estimates``: what kernels cost at the size of a 130M model, by the emulator.

One row of 2048 tokens, of 512 for scans, whose cost is linear in them; one core of trn2. Rules of
thumb, no measurement: see docs/trainium.md.
"""

import dataclasses
from typing import Any

import ml_dtypes
import numpy as np

from neuron.emulator import simulate
from neuron.emulator.cost import Report
from neuron.emulator.targets import GEN3
from neuron.kernels.convolution import short_convolution, short_convolution_backward
from neuron.kernels.scan import selective_scan, tile_columns
from neuron.kernels.scan_backward import selective_scan_backward
from neuron.kernels.ssd import CHUNK, ssd
from neuron.kernels.ssd_backward import ssd_backward

LENGTH = 2048
SCAN_LENGTH = 512
TAPS = 4
CHANNELS, STATES = 1536, 16
HEADS, WIDTH, SSD_STATES = 12, 128, 64


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a kernel costs beside what it can't cost less than.

    Attributes:
      name: of the kernel.
      report: by the emulator.
      least_seconds: the largest lower bound of an engine, of the work that can't be elsewhere.
      least_bytes: each operand and each result once.
    """

    name: str
    report: Report
    least_seconds: float
    least_bytes: int

    @property
    def seconds(self) -> float:
        """The time of the busiest part, were it alone."""
        return max(self.report.seconds.values())

    @property
    def moved_bytes(self) -> int:
        """Bytes read from HBM and written to it."""
        return self.report.hbm_read + self.report.hbm_written

    def line(self) -> str:
        """A row of the table."""
        report, moved = self.report, self.moved_bytes
        times = " ".join(f"{report.seconds[part] * 1e6:8.1f}" for part in PARTS)
        return (
            f"{self.name:<22}{times}{self.seconds / self.least_seconds:8.2f}"
            f"{moved / 1e6:9.2f}{moved / self.least_bytes:7.2f}{report.sbuf_high_water / 1024:7.1f}"
            f"{report.psum_high_water / 1024:6.1f}{report.instructions:8d}"
        )


PARTS = ("tensor", "vector", "scalar", "gpsimd", "dma")
TITLE = (
    f"{'microseconds':<22}{'tensor':>8} {'vector':>8} {'scalar':>8} {'gpsimd':>8} {'dma':>8}"
    f"{'/bound':>8}{'HBM MB':>9}{'/least':>7}{'SBUF K':>7}{'PSUM':>6}{'issued':>8}"
)


def _draw(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _estimate(
    name: str, kernel: Any, operands: tuple[Any, ...], cycles: dict[str, float]
) -> Estimate:
    run = simulate(kernel, GEN3.name)
    results = run(*operands)
    results = results if isinstance(results, tuple) else (results,)
    arrays = [a for a in (*operands, *results) if isinstance(a, np.ndarray)]
    report = run.reports[0]
    gigahertz = {
        "tensor": 2.4,
        "vector": 0.96,
        "elementwise": 0.96 + 1.2,
    }
    gigahertz["vector, gpsimd, tensor"] = gigahertz["vector, gpsimd, scalar"] = 0.96 + 2 * 1.2
    moved = sum(a.nbytes for a in arrays)
    least = [cycles[part] / gigahertz[part] * 1e-9 for part in cycles]
    least.append(moved / GEN3.hbm_bytes_per_second)
    return Estimate(name, report, max(least), moved)


def scans(dtype: Any = np.float32) -> list[Estimate]:
    """The selective scan.

    Bounds: a scan takes VectorE two cycles an element. Forward: a scan and two products for
    each state, the products anywhere. Backward: two scans; three products and two sums; four
    products on TensorE in float32.
    """
    step = np.full((1, CHANNELS, SCAN_LENGTH), 0.01, np.float32)
    rate = -np.tile(np.arange(1, STATES + 1, dtype=np.float32), (CHANNELS, 1))
    maps = [_draw(1, STATES, SCAN_LENGTH).astype(dtype) for _ in range(2)]
    x, dy = (_draw(1, CHANNELS, SCAN_LENGTH).astype(dtype) for _ in range(2))
    state = _draw(1, CHANNELS, STATES)
    edges = _draw(1, -(-SCAN_LENGTH // tile_columns(STATES)), CHANNELS, STATES)
    operands = (x, step, rate, *maps)
    unit = 2 * SCAN_LENGTH * STATES * CHANNELS / 128
    forward = {"vector": unit, "elementwise": 4 * unit}
    backward = {"vector": 2 * unit, "elementwise": 7 * unit, "tensor": 8 * unit}
    label = np.dtype(dtype).name
    return [
        _estimate(f"scan {label}", selective_scan, (*operands, state), forward),
        _estimate(
            f"its gradient {label}",
            selective_scan_backward,
            (*operands, edges, dy, state),
            backward,
        ),
    ]


def ssds(dtype: Any = np.float32) -> list[Estimate]:
    """State-space duality.

    Bounds: for each head and chunk, on TensorE matmuls in the dtype of operands (forward 3,
    backward 7, two of them of N columns) and sums in float32 with zeros and ones (1 and 3);
    transposes are not counted. On VectorE what reads PSUM beside another tile, and sums along
    rows.
    """
    step = np.full((1, LENGTH, HEADS), 0.01, np.float32)
    rate = -np.arange(1, HEADS + 1, dtype=np.float32)
    maps = [_draw(1, LENGTH, SSD_STATES).astype(dtype) for _ in range(2)]
    x, dy = (_draw(1, LENGTH, HEADS, WIDTH).astype(dtype) for _ in range(2))
    state = _draw(1, HEADS, WIDTH, SSD_STATES)
    edges = _draw(1, -(-LENGTH // CHUNK), SSD_STATES, HEADS * WIDTH)
    operands = (x, step, rate, *maps)
    units = HEADS * LENGTH / CHUNK
    slow = 4 if dtype == np.float32 else 1
    forward = {"tensor": units * (3 * WIDTH * slow + 2 * CHUNK), "vector": units * 4 * WIDTH}
    backward = {
        "tensor": units * ((4 * WIDTH + CHUNK + 2 * SSD_STATES) * slow + 3 * 2 * CHUNK),
        "vector": units * (2 * CHUNK + 7 * WIDTH + 4 * SSD_STATES),
    }
    label = np.dtype(dtype).name
    return [
        _estimate(f"ssd {label}", ssd, (*operands, state), forward),
        _estimate(f"its gradient {label}", ssd_backward, (*operands, edges, dy, state), backward),
    ]


def convolutions(dtype: Any = np.float32) -> list[Estimate]:
    """The short convolution.

    Bounds: HBM. Backward, a product of two tiles for each tap and for the slope, and a sum over
    time for each of them; in float32 two products more for each tap, which TensorE may take,
    in bfloat16 three passes of ScalarE.
    """
    x, dout = (_draw(1, CHANNELS, LENGTH).astype(dtype) for _ in range(2))
    tail = _draw(1, CHANNELS, TAPS - 1).astype(dtype)
    operands = (x, tail, _draw(CHANNELS, TAPS).astype(dtype), _draw(CHANNELS, 1).astype(dtype))
    unit = LENGTH * CHANNELS / 128
    if dtype == np.float32:
        # TensorE takes a tap in 4 cycles an element at 2.4 GHz, as GpSimdE in 2 at 1.2.
        work = {"vector, gpsimd, tensor": (2 * (3 * TAPS + 1)) * unit}
    else:
        work = {"vector, gpsimd, scalar": (3 * (TAPS + 1) + 3) * unit}
    label = np.dtype(dtype).name
    return [
        _estimate(f"convolution {label}", short_convolution, operands, {}),
        _estimate(f"its gradient {label}", short_convolution_backward, (*operands, dout), work),
    ]


def main() -> None:
    """Print the table."""
    print(TITLE)
    for dtype in (np.float32, ml_dtypes.bfloat16):
        for estimate in (*scans(dtype), *ssds(dtype), *convolutions(dtype)):
            print(estimate.line())


if __name__ == "__main__":
    main()
