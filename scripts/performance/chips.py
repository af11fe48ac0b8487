"""Peak rates of chips, the shares of them that are assumed, and the time of work."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Chip:
    """What a chip can do at most.

    Attributes:
      name: of the chip.
      matrix: operations a second of bfloat16 products, dense.
      bandwidth: bytes a second of its memory.
      vector: elementwise float32 operations a second, one for each lane and clock.
      source: where the first two are from.
      vector_source: where the third is from.
    """

    name: str
    matrix: float
    bandwidth: float
    vector: float
    source: str
    vector_source: str


CHIPS = (
    Chip(
        "H100 SXM",
        989e12,
        3.35e12,
        33.5e12,
        "NVIDIA, H100 Tensor Core GPU data sheet (1,979 TFLOP/s with sparsity, halved)",
        "same: 67 TFLOP/s of float32 count a multiply-add as two; here each is by itself",
    ),
    Chip(
        "TPU v5p",
        459e12,
        2.765e12,
        14.3e12,
        "Google Cloud, TPU v5p, key specifications",
        "no data sheet: 2 cores x 8 x 128 lanes x 4 units (JAX, How to Scale Your Model) x 1.75 "
        "GHz, the clock at which 2 x 4 units of 128 x 128 make 459 TFLOP/s",
    ),
    Chip(
        "trn2",
        667e12,
        2.9e12,
        0.98e12,
        "AWS Neuron documentation, Trainium2 architecture",
        "8 cores x 128 lanes of the Vector Engine x 0.96 GHz (NKI guide); the Scalar Engine not "
        "counted",
    ),
)


@dataclasses.dataclass(frozen=True)
class Shares:
    """Parts of the peaks that are assumed to be reached.

    Attributes:
      matrix: of products.
      memory: of bandwidth.
      vector: of elementwise work.
    """

    matrix: float = 0.5
    memory: float = 0.8
    vector: float = 0.5


@dataclasses.dataclass(frozen=True)
class Work:
    """What is to be done.

    Attributes:
      matrix: operations of products.
      vector: elementwise operations.
      moved: bytes read and written.
    """

    matrix: float
    vector: float
    moved: float

    def seconds(self, chip: Chip, shares: Shares) -> tuple[float, float, str]:
        """(the longer of products and memory, elementwise work, which was the longer)."""
        products = self.matrix / (chip.matrix * shares.matrix)
        memory = self.moved / (chip.bandwidth * shares.memory)
        vector = self.vector / (chip.vector * shares.vector)
        return max(products, memory), vector, "matrix" if products >= memory else "memory"
