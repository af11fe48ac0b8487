"""Capacities and rates of each generation of NeuronCore.

Figures of one core, from the public architecture guides. SBUF counts only the bytes that a
kernel may use, which is less than what the chip has.
"""

import contextlib
import dataclasses
import os
from collections.abc import Iterator

VARIABLE = "NEURON_PLATFORM_TARGET_OVERRIDE"
"""Environment variable that names the target, as for the vendor's simulator."""

PARTITIONS = 128
PSUM_BANKS = 8
PSUM_BANK_BYTES = 2048


@dataclasses.dataclass(frozen=True)
class Target:
    """One generation of NeuronCore.

    Attributes:
      name: the generation, ``gen2`` to ``gen4``.
      device: the chip that has it.
      generation: its number.
      sbuf_bytes: usable SBUF bytes of a partition.
      moving_columns: the most columns of a matmul's moving operand, for a float32 result.
      tensor_ghz: clock of TensorE. Likewise ``vector_ghz``, ``scalar_ghz``, ``gpsimd_ghz``.
      dma_bytes_per_second: all DMA engines of the core together.
      hbm_bytes_per_second: the core's share of the chip's HBM bandwidth.
    """

    name: str
    device: str
    generation: int
    sbuf_bytes: int
    moving_columns: int
    tensor_ghz: float
    vector_ghz: float
    scalar_ghz: float
    gpsimd_ghz: float
    dma_bytes_per_second: float
    hbm_bytes_per_second: float

    @property
    def psum_bytes(self) -> int:
        """PSUM bytes of a partition."""
        return PSUM_BANKS * PSUM_BANK_BYTES

    def ghz(self, engine: str) -> float:
        """The clock of an engine, by its name, in GHz."""
        return {
            "tensor": self.tensor_ghz,
            "vector": self.vector_ghz,
            "scalar": self.scalar_ghz,
            "gpsimd": self.gpsimd_ghz,
        }[engine]


GEN2 = Target("gen2", "trn1", 2, 180_224, 512, 2.8, 1.12, 1.4, 1.4, 272e9, 410e9)
GEN3 = Target("gen3", "trn2", 3, 212_984, 512, 2.4, 0.96, 1.2, 1.2, 368e9, 362e9)
GEN4 = Target("gen4", "trn3", 4, 245_752, 4096, 2.4, 1.2, 1.2, 1.2, 528e9, 612e9)

NAMES = {
    "trn1": GEN2,
    "inf2": GEN2,
    "gen2": GEN2,
    "trn2": GEN3,
    "gen3": GEN3,
    "trn3": GEN4,
    "gen4": GEN4,
}


def resolve(name: str | None = None) -> Target:
    """The target of that name, of the environment, or trn2.

    The vendor's simulator takes trn3 where nothing is said; set the variable for both.

    Raises:
      ValueError: there is no target of that name.
    """
    name = name or os.environ.get(VARIABLE) or "trn2"
    try:
        return NAMES[name.lower()]
    except KeyError:
        choices = ", ".join(NAMES)
        raise ValueError(f"{VARIABLE}: no target {name!r}; choose one of {choices}") from None


@contextlib.contextmanager
def named(target: Target) -> Iterator[None]:
    """Make a target the environment's for a while."""
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = target.name
    try:
        yield
    finally:
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before
