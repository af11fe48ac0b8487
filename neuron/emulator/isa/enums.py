"""The enumerations that instructions take."""

import enum


class engine(enum.Enum):  # noqa: N801
    """An engine of the core; ``unknown`` leaves the choice to the compiler."""

    tensor = 1
    vector = 5
    scalar = 2
    gpsimd = 3
    dma = 4
    sync = 6
    unknown = 0


class reduce_cmd(enum.Enum):  # noqa: N801
    """What an instruction does to its engine's accumulator registers."""

    idle = 0
    reset = 1
    reduce = 2
    reset_reduce = 3
    load_reduce = 4


class dge_mode(enum.Enum):  # noqa: N801
    """Who makes the descriptors of a DMA."""

    unknown = 0
    swdge = 1
    hwdge = 2
    none = 3


class oob_mode(enum.Enum):  # noqa: N801
    """What happens to an index that is out of range."""

    error = 0
    skip = 1


class matmul_perf_mode(enum.Enum):  # noqa: N801
    """Performance mode of a matmul."""

    none = "none"
    double_row = "double_row"


class nc_version(enum.Enum):  # noqa: N801
    """Generation of a NeuronCore."""

    gen2 = 2
    gen3 = 3
    gen4 = 4


class dma_engine(enum.Enum):  # noqa: N801
    """How ``sendrecv`` moves its data."""

    dma = 1
    gpsimd_dma = 2
