"""Tensors: views of storages by offset and strides, which is what instructions work on."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np

from neuron.emulator import dtypes, races, session
from neuron.emulator.indexing import (
    DynamicSlice,
    dtype_name,
    is_whole,
    part_of,
    reshaped_strides,
)
from neuron.emulator.memory import MemoryRegion, Storage
from neuron.emulator.session import fail, require

Pattern = Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Dynamic:
    """How a view depends on a value that is known only when the kernel runs.

    Attributes:
      index: a tensor or a register.
      per_partition: each index of axis 0 has its own offset; else one offset serves all.
      rows: number of values that the index may take.
      step: elements between two values of the index.
    """

    index: Any
    per_partition: bool
    rows: int
    step: int


class Tensor:
    """A view of a storage.

    Args:
      storage: where the elements are.
      dtype: name of the elements' dtype; may differ from the storage's.
      offset: of the first element, in elements.
      shape: axis 0 is the partition axis if the storage is on the chip.
      strides: in elements.
      dynamic: set if the place of the view depends on data.
    """

    access_pattern: ClassVar[Callable[..., "Tensor"]]
    """The view behind :meth:`ap`; :mod:`neuron.emulator.patterns` has it."""

    def __init__(
        self,
        storage: Storage,
        dtype: str,
        offset: int,
        shape: tuple[int, ...],
        strides: tuple[int, ...],
        dynamic: Dynamic | None = None,
    ):
        self.storage, self.dtype, self.offset = storage, dtype, offset
        self.shape, self.strides, self.dynamic = shape, strides, dynamic

    @classmethod
    def whole(cls, storage: Storage) -> "Tensor":
        """All of a storage, in the shape it was allocated with."""
        shape = storage.shape
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        return cls(storage, storage.dtype, 0, shape, strides)

    # What kernels may ask.

    @property
    def buffer(self) -> MemoryRegion:
        """Where the tensor lives."""
        return self.storage.region

    @property
    def name(self) -> str:
        """The name given at allocation."""
        return self.storage.name

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def on_chip(self) -> bool:
        """True in SBUF and PSUM."""
        return self.buffer.on_chip

    @property
    def row(self) -> int:
        """Elements of this dtype in one index of the storage's axis 0."""
        return self.storage.partition_bytes // dtypes.itemsize(self.dtype)

    @property
    def partition(self) -> int:
        """The storage's partition at which the view starts."""
        return self.offset // self.row

    def is_contiguous(self) -> bool:
        """True if the free axes (in HBM: all axes) follow one another without gaps."""
        expected = 1
        for size, stride in reversed(
            list(zip(self.shape, self.strides, strict=True))[self.first :]
        ):
            if size != 1 and stride != expected:
                return False
            expected *= size
        return True

    def is_indirect(self) -> bool:
        """True if the place of the view depends on data."""
        return self.dynamic is not None

    def get_pattern(self) -> list[list[int]]:
        """The view as ``[[stride, count], ...]``."""
        return [[s, n] for s, n in zip(self.strides, self.shape, strict=True)]

    # Views.

    @property
    def first(self) -> int:
        """The first axis that views may change: 1 on the chip, 0 in HBM."""
        return 1 if self.on_chip or (self.dynamic and self.dynamic.per_partition) else 0

    def _view(self, shape: Sequence[int], strides: Sequence[int], offset: int = 0) -> "Tensor":
        return Tensor(
            self.storage,
            self.dtype,
            self.offset + offset,
            tuple(shape),
            tuple(strides),
            self.dynamic,
        )

    def __getitem__(self, key: Any) -> "Tensor":
        """A view by integers, slices, ``nl.ds`` and ``...``; nothing is clipped."""
        if isinstance(key, DynamicSlice) or not isinstance(key, tuple):
            key = (key,)
        if any(part is Ellipsis for part in key):
            place = next(i for i, part in enumerate(key) if part is Ellipsis)
            require(sum(part is Ellipsis for part in key) == 1, "index", "has more than one '...'")
            missing = self.ndim - len(key) + 1
            key = key[:place] + (slice(None),) * missing + key[place + 1 :]
        require(
            len(key) <= self.ndim, "index", f"has {len(key)} parts, the tensor {self.ndim} axes"
        )
        key = key + (slice(None),) * (self.ndim - len(key))
        offset, shape, strides = 0, [], []
        for axis, (part, size, stride) in enumerate(
            zip(key, self.shape, self.strides, strict=True)
        ):
            start, count, step, drop = part_of(part, size, axis)
            require(
                not (axis == 0 and self.first and step != 1),
                f"index of axis {axis}",
                f"step {step}: partitions are contiguous, the step must be 1",
            )
            if self.dynamic and axis == 0 and (start, count) != (0, size):
                fail("index", "axis 0 is indirect and can't be indexed again")
            offset += start * stride
            if not drop or axis < self.first:
                shape.append(count)
                strides.append(step * stride)
        least = self.first + 1
        while len(shape) < least:
            shape.append(1)
            strides.append(1)
        return self._view(shape, strides, offset)

    def __setitem__(self, key: Any, value: Any) -> None:
        fail("assignment", "tensors are written by instructions: nisa.tensor_copy or nisa.dma_copy")

    def __eq__(self, other: object) -> bool:
        """Identity, so that ``== None`` may be asked; a number is no sensible question."""
        if isinstance(other, int | float | np.number):
            fail("operator", f"'==' can't compare elements with {other}; use nisa.tensor_scalar")
        return self is other

    __hash__ = object.__hash__

    def __iter__(self) -> Any:
        fail("iteration", "a tensor can't be iterated over; index it in a loop over range(n)")

    def __bool__(self) -> bool:
        fail("truth value", "the content of a tensor isn't known when the kernel is traced")

    def _arithmetic(self, *_: Any) -> Any:
        fail("operator", "tensors have no arithmetic; use nisa.tensor_tensor or nisa.tensor_scalar")

    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = _arithmetic
    __truediv__ = __rtruediv__ = __pow__ = __neg__ = __matmul__ = _arithmetic
    __lt__ = __le__ = __gt__ = __ge__ = _arithmetic

    def reshape(self, shape: Sequence[int]) -> "Tensor":
        """The same elements in another shape, if the layout allows it without a copy."""
        shape = tuple(int(n) for n in shape)
        require(
            math.prod(shape) == self.size,
            "reshape",
            f"{shape} has {math.prod(shape)} elements, the tensor {self.size}",
        )
        if self.first:
            require(
                len(shape) >= 1 and shape[0] == self.shape[0],
                "reshape",
                f"axis 0 is the partition axis and must stay {self.shape[0]}, got {shape}",
            )
        if self.on_chip and len(shape) < 2:
            shape = (*shape, 1)
        head = self.first
        strides = reshaped_strides(self.shape[head:], self.strides[head:], shape[head:])
        return self._view(shape, (*self.strides[:head], *strides))

    def reshape_dim(self, dim: int, shape: Sequence[int]) -> "Tensor":
        """One axis split into several; one size may be -1."""
        sizes = list(shape)
        if -1 in sizes:
            known = -math.prod(sizes)
            require(
                self.shape[dim] % known == 0,
                "reshape_dim",
                f"{self.shape[dim]} is no multiple of {known}",
            )
            sizes[sizes.index(-1)] = self.shape[dim] // known
        return self.reshape((*self.shape[:dim], *sizes, *self.shape[dim + 1 :]))

    def flatten_dims(self, start_dim: int, end_dim: int) -> "Tensor":
        """Axes ``start_dim`` to ``end_dim``, both included, merged into one."""
        require(start_dim >= self.first, "flatten_dims", "can't merge the partition axis")
        merged = math.prod(self.shape[start_dim : end_dim + 1])
        return self.reshape((*self.shape[:start_dim], merged, *self.shape[end_dim + 1 :]))

    def permute(self, dims: Sequence[int]) -> "Tensor":
        """Axes in another order."""
        require(
            sorted(dims) == list(range(self.ndim)),
            "permute",
            f"{tuple(dims)} is no permutation of the {self.ndim} axes",
        )
        require(not self.first or dims[0] == 0, "permute", "axis 0 must stay first")
        return self._view([self.shape[d] for d in dims], [self.strides[d] for d in dims])

    def broadcast(self, dim: int, size: int) -> "Tensor":
        """An axis of one element repeated, without a copy."""
        require(dim >= self.first, "broadcast", "the partition axis can't be broadcast")
        require(
            self.shape[dim] == 1, "broadcast", f"axis {dim} has {self.shape[dim]} elements, not 1"
        )
        shape, strides = list(self.shape), list(self.strides)
        shape[dim], strides[dim] = size, 0
        return self._view(shape, strides)

    def expand_dim(self, dim: int) -> "Tensor":
        """A new axis of one element."""
        require(dim >= self.first, "expand_dim", "nothing may come before the partition axis")
        shape, strides = list(self.shape), list(self.strides)
        shape.insert(dim, 1)
        strides.insert(dim, 0)
        return self._view(shape, strides)

    def squeeze_dim(self, dim: int) -> "Tensor":
        """Without an axis of one element."""
        require(dim >= self.first, "squeeze_dim", "the partition axis must stay")
        require(self.shape[dim] == 1, "squeeze_dim", f"axis {dim} has {self.shape[dim]} elements")
        shape, strides = list(self.shape), list(self.strides)
        del shape[dim], strides[dim]
        require(len(shape) > self.first, "squeeze_dim", "a free axis must stay")
        return self._view(shape, strides)

    def rearrange(
        self,
        src_pattern: Sequence[Any],
        dst_pattern: Sequence[Any],
        fixed_sizes: dict[str, int] | None = None,
    ) -> "Tensor":
        """Axes split, reordered and merged by names, as in ``(('b', ('h', 'w')), ('b', 'w'))``."""
        require(len(src_pattern) == self.ndim, "rearrange", f"the tensor has {self.ndim} axes")
        sizes = dict(fixed_sizes or {})
        names: list[str] = []
        flat: list[int] = []
        for part, size in zip(src_pattern, self.shape, strict=True):
            group = (part,) if isinstance(part, str) else tuple(part)
            unknown = [name for name in group if name not in sizes]
            known = math.prod(sizes[name] for name in group if name in sizes)
            if len(unknown) > 1 or size % known or (not unknown and known != size):
                fail("rearrange", f"can't split {size} elements into {group} with {sizes}")
            if unknown:
                sizes[unknown[0]] = size // known
            names += group
            flat += [sizes[name] for name in group]
        groups = [(p,) if isinstance(p, str) else tuple(p) for p in dst_pattern]
        order = [name for group in groups for name in group]
        require(sorted(order) == sorted(names), "rearrange", f"{names} and {order} must agree")
        split = self.reshape(flat).permute([names.index(name) for name in order])
        return split.reshape([math.prod(sizes[name] for name in group) for group in groups])

    def view(self, dtype: Any) -> "Tensor":
        """The same bytes as another dtype; the last axis is scaled."""
        name = dtype_name(dtype, "view")
        old, new = dtypes.itemsize(self.dtype), dtypes.itemsize(name)
        require(self.dynamic is None, "view", "an indirect view can't be reinterpreted")
        require(
            old == new or self.strides[-1] == 1 or self.shape[-1] == 1,
            "view",
            "the last axis must be contiguous",
        )
        require(
            self.shape[-1] * old % new == 0 and self.offset * old % new == 0,
            "view",
            f"{self.shape[-1]} elements of {old} bytes are no whole number of {new} bytes",
        )
        strides = []
        for stride, size in zip(self.strides[:-1], self.shape[:-1], strict=True):
            require(size == 1 or stride * old % new == 0, "view", "an axis has an odd stride")
            strides.append(stride * old // new)
        shape = (*self.shape[:-1], self.shape[-1] * old // new)
        last = self.strides[-1] if old == new else 1
        return Tensor(self.storage, name, self.offset * old // new, shape, (*strides, last))

    reinterpret_cast = view

    def slice(self, dim: int, start: int, end: int, step: int = 1) -> "Tensor":
        """A range of one axis."""
        key = [slice(None)] * self.ndim
        key[dim] = slice(start, end, step)
        return self[tuple(key)]

    def select(self, dim: int, index: Any) -> "Tensor":
        """One element of an axis, which goes; the index may be data."""
        shape = self.shape[:dim] + self.shape[dim + 1 :]
        strides = self.strides[:dim] + self.strides[dim + 1 :]
        require(dim >= self.first, "select", "the partition axis can't be selected from")
        require(len(shape) > self.first, "select", "a free axis must stay")
        if is_whole(index):
            start = part_of(int(index), self.shape[dim], dim)[0]
            return self._view(shape, strides, start * self.strides[dim])
        require(self.dynamic is None, "select", "the view is indirect already")
        dynamic = Dynamic(scalar_index(index, "index"), False, self.shape[dim], self.strides[dim])
        return Tensor(self.storage, self.dtype, self.offset, shape, strides, dynamic)

    def vector_select(self, dim: int, vector_offset: "Tensor") -> "Tensor":
        """Row ``vector_offset[p]`` of axis 0 for each partition p."""
        require(dim == 0, "vector_select", f"dim must be 0, got {dim}")
        pattern = [[0, vector_offset.shape[0]], *self.get_pattern()[1:]]
        return self.ap(pattern, vector_offset=vector_offset)

    def ap(
        self,
        pattern: Pattern,
        offset: int | None = None,
        scalar_offset: Any = None,
        vector_offset: "Tensor | None" = None,
        indirect_dim: int = 0,
        dtype: Any = None,
    ) -> "Tensor":
        """An access pattern ``[[stride, count], ...]`` in elements over the storage.

        Args:
          pattern: on the chip the first pair is the partition axis.
          offset: elements added to the start of this view.
          scalar_offset: one element or a register: the start moves by its value times the
            elements of one index of ``indirect_dim``.
          vector_offset: one row of axis 0 for each partition; HBM only.
          indirect_dim: the axis that the offset counts.
          dtype: reads the bytes as another dtype.
        """
        return Tensor.access_pattern(
            self, pattern, offset, scalar_offset, vector_offset, indirect_dim, dtype
        )

    # What instructions do.

    def bounds(self) -> tuple[int, int]:
        """The first and the last element that the view touches."""
        spans = [s * (n - 1) for s, n in zip(self.strides, self.shape, strict=True)]
        low, high = (sum(pick(s, 0) for s in spans) for pick in (min, max))
        return self.offset + low, self.offset + high

    def array(self) -> np.ndarray:
        """The elements as a NumPy view of the storage."""
        if self.dynamic is not None:
            fail("operand", "an indirect view; only nisa.dma_copy and its kin can take it")
        kind = dtypes.numpy_dtype(self.dtype)
        size = kind.itemsize
        strides = tuple(s * size for s in self.strides)
        return np.ndarray(self.shape, kind, self.storage.raw, self.offset * size, strides)

    def marks(self, mask: np.ndarray) -> np.ndarray:
        """The bytes of the elements in a mask of the storage, one more axis than the view."""
        size = dtypes.itemsize(self.dtype)
        strides = (*(s * size for s in self.strides), 1)
        return np.ndarray(
            (*self.shape, size),
            mask.dtype,
            mask,
            self.offset * size,
            strides,
        )

    def read(self) -> np.ndarray:
        """A copy of the elements."""
        array = self.array().copy()
        if self.storage.readers is not None:
            races.note_read(self, session.current().index)
        return array

    def write(self, values: np.ndarray, source: str = "float32") -> None:
        """Set the elements.

        Args:
          values: as many as the tensor has, of any shape.
          source: their dtype; ``float32`` for results of arithmetic.
        """
        self.array()[...] = dtypes.cast(values, source, self.dtype).reshape(self.shape)
        if self.storage.written is not None:
            self.marks(self.storage.written)[...] = True
        if self.storage.by_other is not None:
            zero = not np.any(values) and source == "float32"
            self.marks(self.storage.by_other)[...] = 1 if zero else 2
        if self.storage.writers is not None:
            races.note_write(self, session.current().index)

    def __repr__(self) -> str:
        return f"Tensor{self.shape} {self.dtype} in {self.buffer.value}"


def scalar_index(index: Any, operand: str) -> Any:
    """An index given as data: a register or a tile of one integer."""
    if isinstance(index, Tensor):
        require(index.size == 1, operand, f"must have one element, has {index.size}")
        require(
            index.buffer is MemoryRegion.sbuf,
            operand,
            f"must be in SBUF, is in {index.buffer.value}",
        )
        require(not dtypes.is_float(index.dtype), operand, f"must be an integer, is {index.dtype}")
    else:
        require(hasattr(index, "get"), operand, f"must be a tile or a register, got {index!r}")
    return index
