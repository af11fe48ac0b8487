"""What a kernel costs by the published rules of thumb: cycles per engine and bytes by DMA.

The rules know nothing of waiting, of spills or of how engines overlap: an estimate bounds the
time from below and tells which part is busiest, no more.
"""

import dataclasses

from neuron.emulator.targets import Target

ISSUE_CYCLES = 64
"""Fewest cycles between two instructions of an engine."""

SHORT_CYCLES = 100
"""Added to instructions on rows so short that their fixed cost shows."""

SHORT_ROW = 64
"""Elements a row needs for the fixed cost to be hidden."""

SMALL_RUN_BYTES = 512
"""Contiguous bytes below which DMA wastes bandwidth."""

TRANSFER_SECONDS = 1.3e-6
"""Fixed cost of a DMA transfer."""

DMA_ENGINES = 16
"""Transfers that may go on at once."""

ENGINES = ("tensor", "vector", "scalar", "gpsimd")


@dataclasses.dataclass
class Engine:
    """Work of one engine: instructions and the cycles they take."""

    instructions: int = 0
    cycles: int = 0


class Counter:
    """Counts the work of one program.

    Args:
      target: whose clocks the estimate uses.
    """

    def __init__(self, target: Target):
        self.target = target
        self.engines = {name: Engine() for name in ENGINES}
        self.ops: dict[str, int] = {}
        self.transfers = 0
        self.small_transfers = 0
        self.hbm_read = 0
        self.hbm_written = 0
        self.moved = 0
        self.flops = 0

    def compute(self, op: str, engine: str, columns: float) -> None:
        """Count one instruction.

        Args:
          op: its name.
          engine: the engine that runs it.
          columns: cycles by its rule, before what every instruction costs.
        """
        work = self.engines[engine]
        work.instructions += 1
        work.cycles += round(max(ISSUE_CYCLES, columns))
        if columns < SHORT_ROW and engine != "tensor":
            work.cycles += SHORT_CYCLES
        self.ops[op] = self.ops.get(op, 0) + 1

    def matmul(self, op: str, columns: int, slowdown: float, flops: int) -> None:
        """Count one pass of a moving operand through TensorE."""
        work = self.engines["tensor"]
        work.instructions += 1
        work.cycles += round(max(columns, ISSUE_CYCLES) * slowdown)
        self.flops += flops
        self.ops[op] = self.ops.get(op, 0) + 1

    def transfer(self, op: str, size: int, run: int, read: bool, written: bool) -> None:
        """Count one DMA.

        Args:
          op: the instruction.
          size: bytes moved.
          run: contiguous bytes of the shorter side.
          read: it reads HBM.
          written: it writes HBM.
        """
        self.transfers += 1
        self.small_transfers += run < SMALL_RUN_BYTES
        self.moved += size
        self.hbm_read += size if read else 0
        self.hbm_written += size if written else 0
        self.ops[op] = self.ops.get(op, 0) + 1


@dataclasses.dataclass(frozen=True)
class Report:
    """What one program of a launch did.

    Attributes:
      target: name of the generation.
      engines: work of each compute engine.
      ops: how often each instruction was issued.
      transfers: DMA instructions; ``small_transfers`` are those with short contiguous runs.
      moved: bytes moved by DMA.
      hbm_read: bytes read from HBM. Likewise ``hbm_written``.
      flops: multiplications and additions of matmuls.
      sbuf_high_water: most bytes of a partition of SBUF alive at once. Likewise
        ``psum_high_water``.
      seconds: lower bound of the time of each engine and of ``dma``, were it alone.
    """

    target: str
    engines: dict[str, Engine]
    ops: dict[str, int]
    transfers: int
    small_transfers: int
    moved: int
    hbm_read: int
    hbm_written: int
    flops: int
    sbuf_high_water: int
    psum_high_water: int
    seconds: dict[str, float]

    @property
    def bottleneck(self) -> str:
        """The part with the largest lower bound."""
        return max(self.seconds, key=lambda name: self.seconds[name])

    @property
    def instructions(self) -> int:
        """Instructions of all engines and DMA together."""
        return sum(self.ops.values())

    def table(self) -> str:
        """The report as lines of text."""
        lines = [f"{'part':<8}{'instructions':>13}{'cycles':>12}{'microseconds':>14}"]
        for name, work in self.engines.items():
            time = f"{self.seconds[name] * 1e6:.1f}"
            lines.append(f"{name:<8}{work.instructions:>13}{work.cycles:>12}{time:>14}")
        time = f"{self.seconds['dma'] * 1e6:.1f}"
        lines.append(f"{'dma':<8}{self.transfers:>13}{'':>12}{time:>14}")
        lines.append(
            f"{self.moved} bytes by DMA, {self.small_transfers} of {self.transfers} transfers in "
            f"runs below {SMALL_RUN_BYTES} bytes; {self.flops} matmul operations"
        )
        lines.append(
            f"SBUF {self.sbuf_high_water} and PSUM {self.psum_high_water} bytes a partition at "
            f"most; busiest part on {self.target}: {self.bottleneck}"
        )
        return "\n".join(lines)


def report(counter: Counter, sbuf_high_water: int, psum_high_water: int) -> Report:
    """The report of what a counter counted."""
    target = counter.target
    seconds = {
        name: work.cycles / (target.ghz(name) * 1e9) for name, work in counter.engines.items()
    }
    seconds["dma"] = max(
        counter.moved / target.dma_bytes_per_second,
        (counter.hbm_read + counter.hbm_written) / target.hbm_bytes_per_second,
        counter.transfers * TRANSFER_SECONDS / DMA_ENGINES,
    )
    return Report(
        target=f"{target.device} ({target.name})",
        engines=counter.engines,
        ops=dict(sorted(counter.ops.items())),
        transfers=counter.transfers,
        small_transfers=counter.small_transfers,
        moved=counter.moved,
        hbm_read=counter.hbm_read,
        hbm_written=counter.hbm_written,
        flops=counter.flops,
        sbuf_high_water=sbuf_high_water,
        psum_high_water=psum_high_water,
        seconds=seconds,
    )
