"""TensorE: matrix multiplication and transposition, from SBUF into PSUM."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import (
    CHIP,
    PSUM,
    SBUF,
    choose_engine,
    count,
    dtype_in,
    elements,
    flag,
    flat,
    flat32,
    instruction,
    member,
    require,
    tile,
    unsupported,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import matmul_perf_mode
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.session import current, fail, op_name
from neuron.emulator.targets import PARTITIONS, PSUM_BANK_BYTES
from neuron.emulator.tensors import Tensor

WIDE = ("float32", "tfloat32")
INPUTS = (*WIDE, "bfloat16", "float16", "float8_e4m3", "float8_e4m3fn", "float8_e5m2")
STATIONARY_COLUMNS = 128
VECTOR_BLOCK = 32
WIDE_SLOWDOWN = 4.0


@instruction
def nc_matmul(
    dst: Any,
    stationary: Any,
    moving: Any,
    is_stationary_onezero: bool = False,
    is_moving_onezero: bool = False,
    is_transpose: bool = False,
    accumulate: bool | None = None,
    tile_position: tuple[int, ...] = (),
    tile_size: tuple[int, ...] = (),
    perf_mode: Any = matmul_perf_mode.none,
    name: str | None = None,
) -> None:
    """``dst[M, N] = stationary[K, M]^T @ moving[K, N]``, K on partitions.

    Products and sums are of the operands as stored, in float32. ``accumulate`` False
    overwrites, True adds to what matmuls have written, None does either, element by element.
    """
    dst = tile(dst, "dst", PSUM)
    stationary, moving = tile(stationary, "stationary", SBUF), tile(moving, "moving", SBUF)
    transpose = flag(is_transpose, "is_transpose")
    member(perf_mode, "perf_mode", matmul_perf_mode)
    if perf_mode is matmul_perf_mode.double_row:
        unsupported("perf_mode", "double_row is not emulated")
    _check_tiling(tile_position, tile_size, stationary)
    rows, wide, long = stationary.shape[0], elements(stationary), elements(moving)
    require(
        moving.shape[0] == rows,
        "moving",
        f"has {moving.shape[0]} partitions, stationary has {rows}; both are the contraction",
    )
    require(
        wide <= STATIONARY_COLUMNS,
        "stationary",
        f"has {wide} free elements, at most {STATIONARY_COLUMNS} fit",
    )
    limit = current().target.moving_columns * (2 if dst.dtype == "bfloat16" else 1)
    require(long <= limit, "moving", f"has {long} free elements, at most {limit} fit")
    require(
        dst.shape[0] == wide and elements(dst) == long,
        "dst",
        f"is {dst.shape}, stationary and moving give ({wide}, {long})",
    )
    _check_dtypes(dst, stationary, moving, transpose)
    _check_bank(dst)

    a, b = flat32(stationary), flat32(moving)
    for hint, operand, values in (
        (is_stationary_onezero, "is_stationary_onezero", a),
        (is_moving_onezero, "is_moving_onezero", b),
    ):
        honest = not flag(hint, operand) or bool(np.isin(values, (0, 1)).all())
        require(honest, operand, "is set, but the operand holds more than ones and zeros")
    if transpose:
        _check_identity(b, rows, long)
        product, source = _transposed(stationary), stationary.dtype
    else:
        product, source = (a.T @ b).astype(np.float32), "float32"
    _write(dst, product, source, False if transpose else accumulate)
    slow = 1.0
    if stationary.dtype in WIDE:
        fast = is_stationary_onezero or is_moving_onezero
        slow = WIDE_SLOWDOWN / 2 if fast else WIDE_SLOWDOWN
    current().counter.matmul(op_name(), long, slow, 0 if transpose else 2 * rows * wide * long)


def _check_tiling(position: Any, size: Any, stationary: Tensor) -> None:
    require(
        bool(position) == bool(size), "tile_position", "tile_position and tile_size go together"
    )
    if not size:
        return
    for part, most, used, name in (
        (0, stationary.shape[0], stationary.shape[0], "partitions"),
        (1, elements(stationary), elements(stationary), "free elements"),
    ):
        require(size[part] in (32, 64, 128), "tile_size", f"{size[part]} is none of 32, 64 and 128")
        require(
            used <= size[part],
            "stationary",
            f"has {most} {name}, tile_size allows {size[part]}",
        )
        require(
            position[part] % size[part] == 0 and 0 <= position[part] < PARTITIONS,
            "tile_position",
            f"{position[part]} is no multiple of tile_size {size[part]} below {PARTITIONS}",
        )


def _check_dtypes(dst: Tensor, stationary: Tensor, moving: Tensor, transpose: bool) -> None:
    gen = current().target.generation
    if transpose:
        require(
            dst.dtype == stationary.dtype,
            "dst",
            f"is {dst.dtype}, a transpose keeps stationary's {stationary.dtype}",
        )
        return
    for operand, view in (("stationary", stationary), ("moving", moving)):
        dtype_in(view, operand, INPUTS)
        require(view.dtype != "float8_e4m3fn" or gen >= 4, operand, "float8_e4m3fn needs gen4")
    require(
        (stationary.dtype in WIDE) == (moving.dtype in WIDE),
        "moving",
        f"is {moving.dtype} and stationary {stationary.dtype}; if one is float32, both must be",
    )
    require(
        {stationary.dtype, moving.dtype} != {"float8_e4m3", "float8_e4m3fn"},
        "moving",
        "float8_e4m3 and float8_e4m3fn can't be mixed",
    )
    dtype_in(dst, "dst", ("float32", "bfloat16") if gen >= 4 else ("float32",))


def _check_bank(dst: Tensor) -> None:
    """A matmul of the older generations writes one PSUM bank."""
    if current().target.generation >= 4:
        return
    size = dtypes.itemsize(dst.dtype)
    start = dst.offset % dst.row
    last = start + sum(s * (n - 1) for s, n in zip(dst.strides[1:], dst.shape[1:], strict=True))
    first_bank, last_bank = start * size // PSUM_BANK_BYTES, last * size // PSUM_BANK_BYTES
    require(
        first_bank == last_bank,
        "dst",
        f"bytes {start * size} to {(last + 1) * size} of a partition span PSUM banks {first_bank} "
        f"to {last_bank}; a matmul writes one bank of {PSUM_BANK_BYTES} bytes",
    )


def _check_identity(moving: np.ndarray, rows: int, columns: int) -> None:
    require(
        rows == columns and bool(np.array_equal(moving, np.eye(rows))),
        "moving",
        "must be an identity matrix where is_transpose is set",
    )


def _transposed(data: Tensor) -> np.ndarray:
    """The transpose as TensorE makes it: bit for bit from gen3 on, by a product before."""
    if current().target.generation >= 3 or not dtypes.is_float(data.dtype):
        return flat(data).T
    wide = flat32(data)
    return (wide.T @ np.eye(len(wide), dtype=np.float32)).astype(dtypes.numpy_dtype(data.dtype))


def _write(dst: Tensor, values: np.ndarray, source: str, accumulate: bool | None) -> None:
    """Overwrite or add, by the flags of each element."""
    require(
        accumulate is None or isinstance(accumulate, bool | np.bool_),
        "accumulate",
        f"must be True, False or None, got {accumulate!r}",
    )
    storage = dst.storage
    assert storage.by_matmul is not None and storage.by_other is not None
    flags = dst.marks(storage.by_matmul)
    others = dst.marks(storage.by_other)
    seen, other = flags.any(axis=-1), others.max(axis=-1, initial=0)
    values = values.reshape(dst.shape)
    if accumulate is not False:
        if accumulate:
            require(
                bool(seen.all()),
                "accumulate",
                f"True, but no matmul has written {int((~seen).sum())} of {dst.size} elements; "
                "pass accumulate=False for the first one",
            )
        adds_to_other = bool((other == 2).any()) or (accumulate is True and bool(other.any()))
        if adds_to_other:
            fail(
                "dst",
                "another engine wrote it after the last matmul, and what accumulates on that is "
                "undefined; pass accumulate=False for the first matmul of a sum",
            )
        old = dst.array().astype(np.float32)
        values = np.where(seen, old + values.astype(np.float32), values)
        source = "float32"
    dst.write(values, source)
    flags[...] = True
    others[...] = 0


@instruction
def nc_transpose(
    dst: Any, data: Any, engine: Any = Engine.unknown, name: str | None = None
) -> None:
    """Partitions and flattened free axes of a tile exchanged.

    TensorE takes up to 128 x 128 from SBUF to PSUM; VectorE up to 32 x 32 from and to both.
    """
    dst, data = tile(dst, "dst", CHIP), tile(data, "data", CHIP)
    rows, columns = data.shape[0], elements(data)
    small = rows <= VECTOR_BLOCK and columns <= VECTOR_BLOCK
    fits_tensor = data.buffer is MemoryRegion.sbuf and dst.buffer is MemoryRegion.psum
    default = Engine.vector if small and not fits_tensor else Engine.tensor
    used = choose_engine(engine, (Engine.tensor, Engine.vector), default)
    most = PARTITIONS if used is Engine.tensor else VECTOR_BLOCK
    if used is Engine.tensor:
        tile(data, "data", SBUF)
        tile(dst, "dst", PSUM)
    require(
        rows <= most and columns <= most,
        "data",
        f"is ({rows}, {columns}), the {used.name} engine transposes at most ({most}, {most})",
    )
    require(
        dst.shape[0] == columns and elements(dst) == rows,
        "dst",
        f"is {dst.shape}, the transpose is ({columns}, {rows})",
    )
    require(dst.dtype == data.dtype, "dst", f"is {dst.dtype}, must be data's {data.dtype}")
    if used is Engine.tensor:
        _check_bank(dst)
        _write(dst, _transposed(data), data.dtype, False)
        slow = WIDE_SLOWDOWN if data.dtype in WIDE else 1.0
        current().counter.matmul(op_name(), rows, slow, 0)
    else:
        dst.write(flat(data).T, data.dtype)
        count(Engine.vector, columns)
