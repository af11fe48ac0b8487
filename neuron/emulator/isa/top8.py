"""VectorE: the eight largest, where they are, and their replacement."""

from typing import Any

import numpy as np

from neuron.emulator import dtypes
from neuron.emulator.isa.common import (
    count,
    dtype_in,
    elements,
    flat32,
    generation,
    instruction,
    number,
    require,
    same_layout,
    tile,
    unsupported,
)
from neuron.emulator.isa.enums import engine as Engine
from neuron.emulator.tensors import Tensor

WIDTH = 8
MOST_ELEMENTS = 16_384


def _searched(view: Tensor, operand: str, least: int) -> Tensor:
    size = elements(view)
    require(
        least <= size <= MOST_ELEMENTS,
        operand,
        f"has {size} elements per partition, must have {least} to {MOST_ELEMENTS}",
    )
    return view


def _eight(view: Tensor, operand: str, base: Tensor) -> Tensor:
    require(
        view.shape[0] == base.shape[0] and elements(view) == WIDTH,
        operand,
        f"is {view.shape}, must have {base.shape[0]} partitions of {WIDTH} elements",
    )
    return view


@instruction
def max8(dst: Any, src: Any, name: str | None = None) -> None:
    """The 8 largest of each partition, descending, compared in float32."""
    src = _searched(tile(src, "src"), "src", WIDTH)
    dst = _eight(tile(dst, "dst"), "dst", src)
    values = flat32(src)
    best = -np.sort(-values, axis=1)[:, :WIDTH]
    best[np.isnan(values).any(axis=1)] = np.nan
    dst.write(best)
    count(Engine.vector, elements(src))


@instruction
def nc_find_index8(dst: Any, data: Any, vals: Any, name: str | None = None) -> None:
    """Where each of 8 values is; the n-th equal value takes the n-th place; all ones: nowhere."""
    data = _searched(tile(data, "data"), "data", WIDTH)
    vals, dst = _eight(tile(vals, "vals"), "vals", data), _eight(tile(dst, "dst"), "dst", data)
    dtype_in(dst, "dst", ("uint32", "uint16"))
    dst.write(_places(flat32(data), flat32(vals), range(WIDTH), dst.dtype)[0], dst.dtype)
    count(Engine.vector, elements(data))


@instruction
def nc_match_replace8(
    dst: Any, data: Any, vals: Any, imm: float, dst_idx: Any = None, name: str | None = None
) -> None:
    """One occurrence of each of 8 values replaced; equal values take places from slot 7 down."""
    data = _searched(tile(data, "data"), "data", 1)
    dst, vals = tile(dst, "dst"), _eight(tile(vals, "vals"), "vals", data)
    same_layout("data", data=data, dst=dst)
    kind = "uint32"
    if dst_idx is not None:
        generation(3)
        dst_idx = _eight(tile(dst_idx, "dst_idx"), "dst_idx", data)
        dtype_in(dst_idx, "dst_idx", ("uint32", "uint16"))
        kind = dst_idx.dtype
    values = flat32(data)
    places, taken = _places(values, flat32(vals), reversed(range(WIDTH)), kind)
    dst.write(np.where(taken, np.float32(number(imm, "imm")), values))
    if dst_idx is not None:
        dst_idx.write(places, dst_idx.dtype)
    count(Engine.vector, elements(data))


def _places(
    data: np.ndarray, vals: np.ndarray, order: Any, dtype: str
) -> tuple[np.ndarray, np.ndarray]:
    """First place not yet taken of each value, in an order of slots, and what was taken."""
    kind = dtypes.numpy_dtype(dtype)
    places = np.full((len(data), WIDTH), np.iinfo(kind).max, kind)
    taken = np.zeros(data.shape, bool)
    lanes = np.arange(len(data))
    for slot in order:
        match = (data == vals[:, slot : slot + 1]) & ~taken
        found = match.any(axis=1)
        first = match.argmax(axis=1)
        places[found, slot] = first[found]
        taken[lanes[found], first[found]] = True
    return places, taken


@instruction
def topk(val_dst: Any, idx_dst: Any, src: Any, n: int, name: str | None = None) -> None:
    """Not emulated: its layout over partitions is not documented well enough."""
    unsupported("topk", "has no model here; use max8 and nc_match_replace8")
