"""GpSimdE: index patterns, gathers and reductions across partitions; SBUF only."""

import math
from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import (
    SBUF,
    apply,
    count,
    dtype_in,
    elements,
    flat,
    flat32,
    generation,
    instruction,
    integer,
    need_integers,
    number,
    reduction,
    require,
    same_layout,
    tile,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.operators import BY_NAME, COMPARISONS
from neuron.emulator.tensors import Tensor

CORE_PARTITIONS = 16
"""Partitions that one of GpSimdE's eight cores reaches."""

MOST_LOCAL_INDICES = 4096
LOCAL_RUNS = (1, 2, 4, 8, 16, 32)
MOST_PATTERN_AXES = 4


def _affine(pattern: Any, offset: Any, multiplier: Any, view: Tensor, operand: str) -> np.ndarray:
    """``offset + p * multiplier + sum of index * step`` as int32, (partitions, elements)."""
    pairs = [tuple(pair) for pair in pattern]
    require(
        1 <= len(pairs) <= MOST_PATTERN_AXES and all(len(pair) == 2 for pair in pairs),
        "pattern",
        f"must be 1 to {MOST_PATTERN_AXES} pairs [step, number], got {pattern!r}",
    )
    size = math.prod(n for _, n in pairs)
    require(
        size == elements(view),
        "pattern",
        f"has {size} elements, {operand} has {elements(view)} per partition",
    )
    grid = np.zeros((1,), np.int64)
    for step, n in pairs:
        integer(step, "pattern")
        grid = (grid[:, None] + np.arange(n, dtype=np.int64) * step).reshape(-1)
    lanes = np.arange(view.shape[0], dtype=np.int64) * integer(multiplier, "channel_multiplier")
    return (grid[None] + lanes[:, None] + integer(offset, "offset")).astype(np.int32)


@instruction
def iota(
    dst: Any, pattern: Any, offset: int = 0, channel_multiplier: int = 0, name: str | None = None
) -> None:
    """``offset + p * channel_multiplier + sum of index * step``, in 32-bit integers."""
    dst = tile(dst, "dst", SBUF)
    dst.write(_affine(pattern, offset, channel_multiplier, dst, "dst"), "int32")
    count(Engine.gpsimd, elements(dst))


@instruction
def affine_select(
    dst: Any,
    pattern: Any,
    channel_multiplier: int,
    on_true_tile: Any,
    on_false_value: float,
    cmp_op: Any = BY_NAME["equal"],
    offset: int = 0,
    name: str | None = None,
) -> None:
    """on_true_tile where ``cmp_op(affine value, 0)``, a constant elsewhere."""
    dst, data = tile(dst, "dst", SBUF), tile(on_true_tile, "on_true_tile", SBUF)
    same_layout("on_true_tile", on_true_tile=data, dst=dst)
    compare = reduction(cmp_op, "cmp_op", (*COMPARISONS, "not_equal"))
    affine = _affine(pattern, offset, channel_multiplier, dst, "dst")
    chosen = apply(compare, affine, 0) != 0
    other = np.float32(number(on_false_value, "on_false_value"))
    if data.dtype == dst.dtype:
        fill = dtypes.cast(np.full(chosen.shape, other), "float32", dst.dtype)
        dst.write(np.where(chosen, flat(data), fill), dst.dtype)
    else:
        dst.write(np.where(chosen, flat32(data), other))
    count(Engine.gpsimd, elements(dst))


@instruction
def nc_n_gather(dst: Any, data: Any, indices: Any, name: str | None = None) -> None:
    """``dst[p, i] = data[p, indices[p, i]]``, free axes flattened."""
    dst, data = tile(dst, "dst", SBUF), tile(data, "data", SBUF)
    indices = tile(indices, "indices", SBUF)
    dtype_in(indices, "indices", ("uint32",))
    dtype_in(dst, "dst", (data.dtype,))
    same_layout("indices", indices=indices, dst=dst)
    require(
        data.shape[0] == indices.shape[0],
        "data",
        f"has {data.shape[0]} partitions, indices has {indices.shape[0]}",
    )
    places = flat(indices).astype(np.int64)
    require(
        int(places.max()) < elements(data),
        "indices",
        f"index {int(places.max())} is not in 0..{elements(data) - 1}",
    )
    dst.write(np.take_along_axis(flat(data), places, axis=1), dst.dtype)
    count(Engine.gpsimd, elements(dst))


@instruction
def local_gather(
    dst: Any,
    src_buffer: Any,
    index: Any,
    num_elem_per_idx: int = 1,
    num_valid_indices: int | None = None,
    name: str | None = None,
) -> None:
    """Runs of elements; each group of 16 partitions shares its indices, partition first."""
    dst, src = tile(dst, "dst", SBUF), tile(src_buffer, "src_buffer", SBUF)
    index = tile(index, "index", SBUF)
    dtype_in(index, "index", ("uint16",))
    dtype_in(dst, "dst", (src.dtype,))
    lanes, run = src.shape[0], integer(num_elem_per_idx, "num_elem_per_idx")
    require(
        lanes == index.shape[0] and lanes % CORE_PARTITIONS == 0,
        "src_buffer",
        f"has {lanes} partitions, index {index.shape[0]}; they must agree and be a multiple of "
        f"{CORE_PARTITIONS}",
    )
    require(run in LOCAL_RUNS, "num_elem_per_idx", f"{run} is none of {LOCAL_RUNS}")
    require(
        run == 1 or num_valid_indices is not None,
        "num_valid_indices",
        f"is missing, without it the hardware ignores num_elem_per_idx={run}",
    )
    most = elements(index) * CORE_PARTITIONS
    valid = most if num_valid_indices is None else integer(num_valid_indices, "num_valid_indices")
    require(valid <= most, "num_valid_indices", f"{valid} exceeds the {most} of a group")
    require(
        valid <= MOST_LOCAL_INDICES, "index", f"{valid} per group, at most {MOST_LOCAL_INDICES}"
    )
    require(
        dst.shape[0] == lanes and elements(dst) == valid * run,
        "dst",
        f"is {dst.shape}, must have {lanes} partitions of {valid * run} elements",
    )
    values, wanted, result = flat(src), flat(index), []
    for start in range(0, lanes, CORE_PARTITIONS):
        group = slice(start, start + CORE_PARTITIONS)
        places = wanted[group].T.reshape(-1)[:valid].astype(np.int64)
        require(
            int(places.max()) + run <= values.shape[1],
            "index",
            f"index {int(places.max())} reaches beyond the {values.shape[1]} elements",
        )
        every = (places[:, None] + np.arange(run)).reshape(-1)
        result.append(values[group][:, every])
    dst.write(np.concatenate(result), dst.dtype)
    count(Engine.gpsimd, elements(dst))


@instruction
def tensor_partition_reduce(dst: Any, op: Any, data: Any, name: str | None = None) -> None:
    """Partitions of a tile reduced to one; slow."""
    dst, data = tile(dst, "dst", SBUF), tile(data, "data", SBUF)
    op = reduction(op, "op", ("add", "maximum", "bitwise_or", "bitwise_and"))
    require(
        dst.shape[0] == 1 and elements(dst) == elements(data),
        "dst",
        f"is {dst.shape}, must have 1 partition of {elements(data)} elements",
    )
    count(Engine.gpsimd, elements(data))
    if op.bits is not None:
        need_integers(f"nl.{op.name}", data, dst)
        rows = flat(data)
        result = rows[0]
        for row in rows[1:]:
            result = op.bits(result, row)
        dst.write(result, data.dtype)
    elif op.name == "add":
        dst.write(flat32(data).sum(axis=0, dtype=np.float32))
    else:
        dst.write(flat32(data).max(axis=0))


@instruction
def sequence_bounds(dst: Any, segment_ids: Any, name: str | None = None) -> None:
    """(1, N) ids to (1, 2, N) first and one past the last index of each element's segment.

    Id 0 is padding: N and -1.
    """
    dst, ids = tile(dst, "dst", SBUF), tile(segment_ids, "segment_ids", SBUF)
    dtype_in(ids, "segment_ids", ("float32", "int32"))
    dtype_in(dst, "dst", ("float32", "int32"))
    size = elements(ids)
    require(ids.shape[0] == 1, "segment_ids", f"has {ids.shape[0]} partitions, must have 1")
    require(
        dst.shape[0] == 1 and elements(dst) == 2 * size,
        "dst",
        f"is {dst.shape}, must be (1, 2, {size})",
    )
    row = flat(ids)[0]
    start, end = np.empty(size, np.float32), np.empty(size, np.float32)
    for i in range(size):
        same = i > 0 and row[i] == row[i - 1]
        start[i] = size if row[i] == 0 else start[i - 1] if same else i
    for i in reversed(range(size)):
        same = i < size - 1 and row[i] == row[i + 1]
        end[i] = -1 if row[i] == 0 else end[i + 1] if same else i + 1
    dst.write(np.stack([start, end]))
    count(Engine.gpsimd, size)


@instruction
def nonzero_with_count(
    dst: Any, src: Any, index_offset: int = 0, padding_val: int = -1, name: str | None = None
) -> None:
    """Places of nonzero elements, padding, and their count; partitions 0, 16, ... only."""
    generation(3)
    dst, src = tile(dst, "dst", SBUF), tile(src, "src", SBUF)
    dtype_in(src, "src", ("float32", "int32"))
    dtype_in(dst, "dst", ("int32",))
    require(
        dst.shape[0] == src.shape[0] and elements(dst) == elements(src) + 1,
        "dst",
        f"is {dst.shape}, must have {src.shape[0]} partitions of {elements(src) + 1} elements",
    )
    offset, padding = integer(index_offset, "index_offset"), integer(padding_val, "padding_val")
    values, result = flat(src), flat(dst)
    for p in range(0, src.shape[0], CORE_PARTITIONS):
        places = np.flatnonzero(values[p])
        result[p] = padding
        result[p, : len(places)] = places + offset
        result[p, -1] = len(places)
    dst.write(result, dst.dtype)
    count(Engine.gpsimd, elements(src))
