"""DMA: movement between HBM and SBUF, with conversion, transposition, gather and scatter."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes, patterns
from neuron.emulator.isa.common import (
    choose_engine,
    dtype_in,
    generation,
    instruction,
    member,
    require,
    tensor,
)
from neuron.emulator.isa.enums import dge_mode as Descriptors
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.isa.enums import oob_mode as Bounds
from neuron.emulator.memory import MemoryRegion
from neuron.emulator.operators import Operator
from neuron.emulator.session import current, fail, op_name
from neuron.emulator.tensors import Tensor

PLACES = (MemoryRegion.sbuf, MemoryRegion.private_hbm, MemoryRegion.shared_hbm)
MOST_SOURCES = 16
MOST_GATHERED_ROWS = 128
TRANSPOSES = {2: (1, 0), 3: (2, 1, 0), 4: (3, 1, 2, 0)}


def _place(value: Any, operand: str) -> Tensor:
    view = tensor(value, operand, PLACES)
    if view.dynamic is not None and view.dynamic.per_partition:
        generation(3)
    return view


def _rowwise(view: Tensor) -> bool:
    return view.dynamic is not None and view.dynamic.per_partition


def _count(dst: Tensor, src: Tensor) -> None:
    run = min(_run(dst), _run(src))
    size = max(dst.size * dtypes.itemsize(dst.dtype), src.size * dtypes.itemsize(src.dtype))
    current().counter.transfer(op_name(), size, run, not src.on_chip, not dst.on_chip)


def _run(view: Tensor) -> int:
    """Contiguous bytes of a view; a partition ends a run."""
    elements = 1
    for size, stride in reversed(list(zip(view.shape, view.strides, strict=True))[view.first :]):
        if size != 1 and stride != elements:
            break
        elements *= size
    return elements * dtypes.itemsize(view.dtype)


@instruction
def dma_copy(
    dst: Any,
    src: Any,
    priority: int | None = None,
    oob_mode: Any = Bounds.error,
    dge_mode: Any = Descriptors.unknown,
    engine: Any = Engine.unknown,
    name: str | None = None,
) -> None:
    """``dst = src`` between HBM and SBUF, of any shapes with as many elements.

    Different dtypes are converted by way of float32. A view with ``vector_offset`` gathers or
    scatters rows, one for each partition.
    """
    dst, src = _place(dst, "dst"), _place(src, "src")
    skip = member(oob_mode, "oob_mode", Bounds) is Bounds.skip
    member(dge_mode, "dge_mode", Descriptors)
    choose_engine(engine, (Engine.sync, Engine.scalar, Engine.gpsimd), Engine.sync)
    require(
        priority is None or current().target.generation >= 4,
        "priority",
        f"needs gen4, the target is {current().target.name}",
    )
    require(
        dst.size == src.size, "dst", f"has {dst.size} elements, src has {src.size}; they must agree"
    )
    require(
        dge_mode is not Descriptors.hwdge or dst.dtype == src.dtype,
        "dst",
        f"is {dst.dtype}, src is {src.dtype}; hwdge can't convert",
    )
    _count(dst, src)
    if _rowwise(dst) or _rowwise(src):
        require(
            dge_mode in (Descriptors.unknown, Descriptors.swdge),
            "dge_mode",
            f"is {dge_mode.name}; gather and scatter need swdge",
        )
        _gather_or_scatter(dst, src, skip)
        return
    source, target = patterns.resolve(src, skip), patterns.resolve(dst, skip)
    if source is not None and target is not None:
        target.write(source.read(), source.dtype)


def _gather_or_scatter(dst: Tensor, src: Tensor, skip: bool) -> None:
    if _rowwise(src) and _rowwise(dst):
        fail("dst", "src and dst both have a vector_offset")
    indexed, other, operand = (src, dst, "dst") if _rowwise(src) else (dst, src, "src")
    require(
        indexed.shape[0] <= MOST_GATHERED_ROWS,
        "vector_offset",
        f"{indexed.shape[0]} rows, at most {MOST_GATHERED_ROWS}",
    )
    require(
        other.shape[0] == indexed.shape[0],
        operand,
        f"has {other.shape[0]} rows, the indexed side has {indexed.shape[0]}",
    )
    for p, row in patterns.rows(indexed, skip, unique=indexed is dst):
        mine = other[p : p + 1]
        if indexed is src:
            mine.write(row.read(), row.dtype)
        else:
            row.write(mine.read(), mine.dtype)


@instruction
def dma_compute(
    dst: Any,
    srcs: Any,
    reduce_op: Any,
    scales: Any = None,
    unique_indices: bool = True,
    oob_mode: Any = Bounds.error,
    name: str | None = None,
) -> None:
    """The sum of 2 to 16 tensors, in float32.

    Of one source the documentation says in one place that it is copied and in another that
    it is added to dst, so that it is an error here. With a ``vector_offset``,
    ``dst[idx] += src`` in HBM or ``dst += src[idx]`` in SBUF.
    """
    dst = _place(dst, "dst")
    require(isinstance(srcs, list | tuple), "srcs", f"must be a list of tensors, got {srcs!r}")
    require(
        len(srcs) >= 2, "srcs", f"has {len(srcs)} tensors, at least 2 are needed; name dst as one"
    )
    require(
        len(srcs) <= MOST_SOURCES, "srcs", f"has {len(srcs)} tensors, at most {MOST_SOURCES} fit"
    )
    views = [_place(src, f"srcs[{i}]") for i, src in enumerate(srcs)]
    require(
        isinstance(reduce_op, Operator) and reduce_op.name == "add",
        "reduce_op",
        f"must be nl.add, got {reduce_op!r}",
    )
    if scales is not None:
        require(
            len(scales) == len(views) and all(s == 1.0 for s in scales),
            "scales",
            f"must be {len(views)} times 1.0, got {list(scales)}",
        )
    skip = member(oob_mode, "oob_mode", Bounds) is Bounds.skip
    for i, view in enumerate(views):
        require(
            view.size == dst.size,
            f"srcs[{i}]",
            f"has {view.size} elements, dst has {dst.size}",
        )
        _count(dst, view)
    if any(_rowwise(view) for view in (dst, *views)):
        _read_modify_write(dst, views, unique_indices, skip)
        return
    total = np.zeros(dst.shape, np.float32)
    for view in views:
        total += view.read().astype(np.float32).reshape(dst.shape)
    dst.write(total)


def _read_modify_write(dst: Tensor, views: list[Tensor], unique: bool, skip: bool) -> None:
    require(len(views) == 2, "srcs", f"has {len(views)} tensors, with vector_offset it takes 2")
    require(unique is True, "unique_indices", "must be True")
    mine = [v for v in views if _same_place(v, dst)]
    require(len(mine) == 1, "srcs", "exactly one must be the same view as dst")
    other = next(v for v in views if v is not mine[0])
    indexed, plain = (dst, other) if _rowwise(dst) else (other, dst)
    require(not _rowwise(plain), "srcs", "only one side may have a vector_offset")
    for p, row in patterns.rows(indexed, skip, unique=True):
        part = plain[p : p + 1]
        total = row.read().astype(np.float32).reshape(-1) + part.read().astype(np.float32).reshape(
            -1
        )
        (row if indexed is dst else part).write(total)


def _same_place(a: Tensor, b: Tensor) -> bool:
    index_a = a.dynamic.index if a.dynamic else None
    index_b = b.dynamic.index if b.dynamic else None
    same_index = index_a is index_b or (
        isinstance(index_a, Tensor)
        and isinstance(index_b, Tensor)
        and index_a.storage is index_b.storage
        and index_a.offset == index_b.offset
    )
    return (
        a.storage is b.storage
        and a.offset == b.offset
        and a.shape == b.shape
        and a.strides == b.strides
        and same_index
    )


@instruction
def dma_transpose(
    dst: Any,
    src: Any,
    axes: Any = None,
    priority: int | None = None,
    dge_mode: Any = Descriptors.unknown,
    oob_mode: Any = Bounds.error,
    name: str | None = None,
) -> None:
    """Axes exchanged: (1, 0), (2, 1, 0) or (3, 1, 2, 0) by rank; src may gather rows."""
    dst, src = tensor(dst, "dst", (MemoryRegion.sbuf,)), _place(src, "src")
    require(src.ndim in TRANSPOSES, "src", f"has {src.ndim} axes, must have 2, 3 or 4")
    order = TRANSPOSES[src.ndim]
    require(
        axes is None or tuple(axes) == order, "axes", f"must be {order} for {src.ndim} axes: {axes}"
    )
    shape = tuple(src.shape[a] for a in order)
    require(dst.shape == shape, "dst", f"is {dst.shape}, the transpose is {shape}")
    dtype_in(dst, "dst", (src.dtype,))
    skip = member(oob_mode, "oob_mode", Bounds) is Bounds.skip
    member(dge_mode, "dge_mode", Descriptors)
    require(priority is None or current().target.generation >= 4, "priority", "needs gen4")
    _count(dst, src)
    if _rowwise(src):
        _gather_transpose(dst, src, order, dge_mode, skip)
        return
    require(not skip, "oob_mode", "skip is for indirect sources only")
    require(dge_mode in (Descriptors.unknown, Descriptors.hwdge), "dge_mode", "must be hwdge")
    if dge_mode is Descriptors.hwdge:
        require(
            src.shape[0] == 16 and src.shape[-1] % 128 == 0 and dtypes.itemsize(src.dtype) == 2,
            "src",
            f"is {src.shape} {src.dtype}; hwdge needs 16 rows, columns a multiple of 128 and "
            "2-byte elements",
        )
    source = patterns.resolve(src)
    assert source is not None
    dst.write(source.read().transpose(order), src.dtype)


def _gather_transpose(
    dst: Tensor, src: Tensor, order: tuple[int, ...], mode: Descriptors, skip: bool
) -> None:
    assert src.dynamic is not None
    index = src.dynamic.index
    require(mode in (Descriptors.unknown, Descriptors.swdge), "dge_mode", "must be swdge")
    require(src.shape[-1] <= 128, "src", f"has {src.shape[-1]} columns, at most 128")
    require(dtypes.itemsize(src.dtype) == 2, "src", f"is {src.dtype}, needs 2-byte elements")
    require(src.shape[0] % 16 == 0, "src", f"has {src.shape[0]} rows, no multiple of 16")
    dtype_in(index, "vector_offset", ("uint32",))
    require(
        16 <= index.shape[0] <= 128 and index.shape[0] % 16 == 0,
        "vector_offset",
        f"has {index.shape[0]} partitions, must have 16 to 128 in steps of 16",
    )
    old = np.transpose(dst.read(), np.argsort(order)).copy()
    for p, row in patterns.rows(src, skip):
        old[p] = row.read()
    dst.write(old.transpose(order), src.dtype)
