"""Safetensors files, one or several of one model, read and written a block of a tensor at a time.

The format: the length of a header in 8 bytes, the header in JSON with dtype, shape and place of
each tensor by name, then the numbers of all tensors one after the other.
"""

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from bmojo.errors import UserError
from bmojo.files import atomically, write_atomically

__all__ = ["BLOCK", "INDEX", "Entry", "read_headers", "read_into", "write_shards"]

BLOCK = 2**24
"""Bytes of a tensor that are read or written at once."""

INDEX = "model.safetensors.index.json"
WHOLE = "model.safetensors"
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")

DTYPES: dict[str, Any] = {"F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}


@dataclasses.dataclass(frozen=True)
class Entry:
    """A tensor in a file: its dtype's name in the format, shape, and first byte."""

    path: Path
    dtype: str
    shape: tuple[int, ...]
    start: int

    @property
    def numpy_dtype(self) -> np.dtype:
        """Its dtype."""
        return np.dtype(DTYPES[self.dtype])


def read_headers(folder: Path) -> dict[str, Entry]:
    """Places of all tensors in the files of a folder, by name.

    Raises:
      UserError: there are no such files, one is damaged, or a tensor is of another dtype than
        float32, bfloat16 and float16.
    """
    entries: dict[str, Entry] = {}
    for path in _files(folder):
        for name, entry in _read_header(path).items():
            if name in entries:
                raise UserError(f"{path}: {name} is in {entries[name].path.name} too; remove one")
            entries[name] = entry
    return entries


def _files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf8"))["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UserError(f"{index}: no index of tensors; fetch it again") from None
        paths = [folder / name for name in names]
        for path in paths:
            if path.parent != folder or not path.is_file():
                raise UserError(f"{path}: is missing, and {INDEX} names it; fetch it again")
        return paths
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    pickles = sorted(path.name for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise UserError(
            f"{folder}: {pickles[0]} is a pickle, which can run any program and is not read; "
            "convert it with transformers: model.save_pretrained(FOLDER)"
        )
    raise UserError(f"{folder}: has no {WHOLE} and no {INDEX}; give a folder with one of them")


def _read_header(path: Path) -> dict[str, Entry]:
    damaged = UserError(f"{path}: no whole safetensors file; fetch it again")
    size = path.stat().st_size
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= size - 8:
            raise damaged
        try:
            header = json.loads(file.read(length))
            header.pop("__metadata__", None)
            tensors = {
                name: (facts["dtype"], tuple(facts["shape"]), *facts["data_offsets"])
                for name, facts in header.items()
            }
        except (ValueError, KeyError, TypeError, AttributeError):
            raise damaged from None
    entries = {}
    for name, (dtype, shape, begin, end) in tensors.items():
        if dtype not in DTYPES:
            raise UserError(
                f"{path}: {name}: {dtype} is not supported; convert it to one of "
                f"{', '.join(DTYPES)}"
            )
        entry = Entry(path, dtype, shape, 8 + length + begin)
        if end - begin != math.prod(shape) * entry.numpy_dtype.itemsize or 8 + length + end > size:
            raise damaged
        entries[name] = entry
    return entries


def read_into(entry: Entry, target: np.ndarray) -> None:
    """Read a tensor into an array of its shape, whatever its strides, a block at a time."""
    dtype, place = entry.numpy_dtype, entry.start
    with open(entry.path, "rb", buffering=0) as file:
        for first, last in _blocks(target):
            block = target[first:last]
            data = np.fromfile(file, dtype, block.size, offset=place - file.tell())
            block[...] = data.reshape(block.shape)
            place += data.nbytes


def _blocks(array: np.ndarray) -> Iterator[tuple[int, int]]:
    """Edges of the rows of an array that are taken at once."""
    rows = max(1, BLOCK // max(1, array.nbytes // max(1, len(array))))
    for first in range(0, len(array), rows):
        yield first, min(first + rows, len(array))


def write_shards(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    dtype: Any,
    get: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Write tensors by name into as many files as keep each below ``shard_bytes``.

    ``get`` gives a tensor when its turn comes. A tensor that is larger has a file of its own.
    """
    dtype = np.dtype(dtype)
    kind = next(name for name, known in DTYPES.items() if np.dtype(known) == dtype)
    sizes = {name: math.prod(shape) * dtype.itemsize for name, shape in shapes.items()}
    groups: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if groups[-1] and filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(name)
        filled += size
    names = [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    if len(groups) == 1:
        names = [WHOLE]
    for file, group in zip(names, groups, strict=True):
        _write(folder / file, {n: (kind, shapes[n], sizes[n]) for n in group}, get)
    if len(groups) > 1:
        places = {name: file for file, group in zip(names, groups, strict=True) for name in group}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        write_atomically(folder / INDEX, json.dumps(index, indent=2) + "\n")


def _write(
    path: Path,
    tensors: Mapping[str, tuple[str, tuple[int, ...], int]],
    get: Callable[[str], np.ndarray],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    place = 0
    for name, (kind, shape, size) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [place, place + size]}
        place += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomically(path) as temporary, open(temporary, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in tensors:
            tensor = get(name)
            for first, last in _blocks(tensor):
                file.write(np.ascontiguousarray(tensor[first:last]).view(np.uint8).data)
