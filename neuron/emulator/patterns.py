"""Raw access patterns, and views whose place depends on data."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.indexing import dtype_name, is_whole
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.session import fail, require
from neuron.emulator.tensors import Dynamic, Pattern, Tensor, scalar_index


def access_pattern(
    tensor: Tensor,
    pattern: Pattern,
    offset: int | None,
    scalar_offset: Any,
    vector_offset: Tensor | None,
    indirect_dim: int,
    dtype: Any,
) -> Tensor:
    """The view that :meth:`Tensor.ap` describes, checked against the storage."""
    require(tensor.dynamic is None, "ap", "the view is indirect already")
    require(
        scalar_offset is None or vector_offset is None,
        "ap",
        "scalar_offset and vector_offset exclude each other",
    )
    require(len(pattern) > 0, "ap", "the pattern is empty")
    for pair in pattern:
        require(
            len(pair) == 2 and all(is_whole(n) for n in pair) and pair[1] >= 1,
            "ap",
            f"{pair!r} is no [stride, count >= 1]",
        )
    base = tensor if dtype is None else _recast(tensor, dtype_name(dtype, "ap"))
    start = base.offset + (0 if offset is None else int(offset))
    strides = tuple(int(s) for s, _ in pattern)
    shape = tuple(int(n) for _, n in pattern)
    if vector_offset is not None:
        return _rows(tensor, base, start, shape, strides, vector_offset, indirect_dim)
    view = Tensor(base.storage, base.dtype, start, shape, strides)
    _check_bounds(view)
    if scalar_offset is None:
        return view
    require(0 <= indirect_dim < tensor.ndim, "ap", f"there is no axis {indirect_dim}")
    require(
        not (tensor.on_chip and indirect_dim == 0), "ap", "the partition axis can't be indirect"
    )
    step = math.prod(tensor.shape[indirect_dim + 1 :])
    dynamic = Dynamic(
        scalar_index(scalar_offset, "scalar_offset"), False, tensor.shape[indirect_dim], step
    )
    return Tensor(base.storage, base.dtype, start, shape, strides, dynamic)


def _recast(tensor: Tensor, name: str) -> Tensor:
    old, new = dtypes.itemsize(tensor.dtype), dtypes.itemsize(name)
    require(tensor.offset * old % new == 0, "ap", f"the view does not start at a whole {name}")
    return Tensor(tensor.storage, name, tensor.offset * old // new, (1,), (1,))


def _check_bounds(view: Tensor) -> None:
    """Static patterns stay inside the storage, and on the chip inside their partition."""
    low, high = view.bounds()
    total = view.storage.raw.size // dtypes.itemsize(view.dtype)
    require(
        0 <= low and high < total,
        "ap",
        f"the pattern {view.get_pattern()} at offset {view.offset} reaches elements {low} to "
        f"{high} of {total}",
    )
    if not view.on_chip:
        return
    row = view.row
    require(
        view.shape[0] == 1 or view.strides[0] == row,
        "ap",
        f"the partition stride must be the storage's {row} free elements, got {view.strides[0]}",
    )
    spans = [s * (n - 1) for s, n in zip(view.strides[1:], view.shape[1:], strict=True)]
    start = view.offset % row
    low, high = start + sum(min(s, 0) for s in spans), start + sum(max(s, 0) for s in spans)
    require(
        0 <= low and high < row,
        "ap",
        f"the free pattern reaches elements {low} to {high} of {row} in a partition",
    )
    require(view.ndim >= 2, "ap", "on the chip a pattern has a partition and a free pair")


def _rows(
    tensor: Tensor,
    base: Tensor,
    start: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    index: Tensor,
    indirect_dim: int,
) -> Tensor:
    require(
        not base.on_chip, "vector_offset", f"the tensor must be in HBM, is in {base.buffer.value}"
    )
    require(indirect_dim == 0, "vector_offset", f"indirect_dim must be 0, got {indirect_dim}")
    require(isinstance(index, Tensor), "vector_offset", f"must be a tile, got {index!r}")
    require(
        index.buffer is MemoryRegion.sbuf,
        "vector_offset",
        f"must be in SBUF, is in {index.buffer.value}",
    )
    require(
        index.dtype in ("uint32", "int32"),
        "vector_offset",
        f"must be uint32 or int32, is {index.dtype}",
    )
    require(
        index.size >= shape[0],
        "vector_offset",
        f"has {index.size} indices for the {shape[0]} rows of the pattern",
    )
    step = math.prod(tensor.shape[1:])
    length = sum(abs(s) * (n - 1) for s, n in zip(strides[1:], shape[1:], strict=True)) + 1
    require(
        length <= step,
        "vector_offset",
        f"a row of the pattern spans {length} elements, the tensor's rows have {step}",
    )
    dynamic = Dynamic(index, True, tensor.shape[0], step)
    return Tensor(base.storage, base.dtype, start, shape, (step, *strides[1:]), dynamic)


def resolve(tensor: Tensor, skip: bool = False) -> Tensor | None:
    """A view with one dynamic offset, at the place that the offset says now.

    Args:
      tensor: the view.
      skip: give None instead of an error if the offset is out of range.
    """
    dynamic = tensor.dynamic
    if dynamic is None or dynamic.per_partition:
        return tensor
    index = dynamic.index
    value = int(index.read().reshape(())) if isinstance(index, Tensor) else index.get()
    if not 0 <= value < dynamic.rows:
        if skip:
            return None
        fail("scalar_offset", f"{value} is not in 0..{dynamic.rows - 1}")
    place = tensor.offset + value * dynamic.step
    view = Tensor(tensor.storage, tensor.dtype, place, tensor.shape, tensor.strides)
    _check_bounds(view)
    return view


def rows(tensor: Tensor, skip: bool, unique: bool = False) -> Iterator[tuple[int, Tensor]]:
    """Each (partition, static view of its row) of a view with an offset per partition.

    Args:
      tensor: the view.
      skip: leave rows out that are out of range, instead of an error.
      unique: two partitions must not have the same row.
    """
    dynamic = tensor.dynamic
    assert dynamic is not None and dynamic.per_partition
    values = dynamic.index.read().T.reshape(-1)[: tensor.shape[0]].astype(np.int64)
    inside = values[(values >= 0) & (values < dynamic.rows)]
    if unique and len(np.unique(inside)) != len(inside):
        twice = next(int(v) for v in inside if (inside == v).sum() > 1)
        fail("vector_offset", f"index {twice} occurs twice; what is written there is undefined")
    for p, value in enumerate(values):
        if not 0 <= value < dynamic.rows:
            if skip:
                continue
            fail("vector_offset", f"index {value} of partition {p} is not in 0..{dynamic.rows - 1}")
        place = tensor.offset + int(value) * dynamic.step
        shape = tensor.shape[1:] or (1,)
        strides = tensor.strides[1:] or (1,)
        view = Tensor(tensor.storage, tensor.dtype, place, shape, strides)
        _check_bounds(view)
        yield p, view


Tensor.access_pattern = staticmethod(access_pattern)
