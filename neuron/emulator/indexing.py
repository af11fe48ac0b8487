"""Parts of an index, checked: nothing is clipped, nothing wraps around."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from neuron.emulator import dtypes
from neuron.emulator.session import fail, require


class DynamicSlice(tuple):
    """``nl.ds(start, size)``: a start and a size instead of a start and an end."""

    def __new__(cls, start: int, size: int) -> "DynamicSlice":
        """Check that both are integers."""
        require(is_whole(start), "nl.ds", f"start must be an integer, got {start!r}")
        require(is_whole(size), "nl.ds", f"size must be an integer, got {size!r}")
        return super().__new__(cls, (int(start), int(size)))


def is_whole(value: Any) -> bool:
    """True of integers, but not of booleans."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def dtype_name(dtype: Any, operand: str) -> str:
    """The name of a dtype, or an error if there is none."""
    try:
        return dtypes.name_of(dtype)
    except ValueError as error:
        fail(operand, str(error))


def part_of(part: Any, size: int, axis: int) -> tuple[int, int, int, bool]:
    """One part of an index as (start, count, step, whether the axis goes)."""
    operand = f"index of axis {axis}"
    if isinstance(part, DynamicSlice):
        start, count = part
        part = slice(start, start + count)
    if isinstance(part, slice):
        for edge in (part.start, part.stop, part.step):
            require(edge is None or is_whole(edge), operand, f"{edge!r} is not an integer")
        start = 0 if part.start is None else int(part.start)
        stop = size if part.stop is None else int(part.stop)
        step = 1 if part.step is None else int(part.step)
        require(step >= 1, operand, f"step {step} is not positive")
        require(
            0 <= start < stop <= size,
            operand,
            f"{start}:{stop} does not hold 0 <= start < end <= {size}; nothing is clipped",
        )
        return start, -(-(stop - start) // step), step, False
    if hasattr(part, "buffer"):
        fail(operand, "a tensor is no index; use ap(scalar_offset=...) or ap(vector_offset=...)")
    require(is_whole(part), operand, f"{part!r} is neither an integer nor a slice")
    require(0 <= part < size, operand, f"{part} is not in 0..{size - 1}")
    return int(part), 1, 1, True


def reshaped_strides(
    shape: Sequence[int], strides: Sequence[int], target: Sequence[int]
) -> tuple[int, ...]:
    """The strides of a view in another shape, or an error if there is no such view."""
    dummy = as_strided(np.empty(1, np.int8), shape, strides)
    try:
        return np.reshape(dummy, target, copy=False).strides
    except ValueError:
        fail(
            "reshape", f"the layout with strides {tuple(strides)} can't be seen as {tuple(target)}"
        )
