"""Named arrays in safetensors files, written whole or not at all."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import ml_dtypes
import numpy as np

from bmojo.errors import UserError
from bmojo.files import write_atomically

__all__ = ["read", "write"]

DTYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64",
    "I32": "int32", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def write(path: str | Path, arrays: Mapping[str, Any], key: str, value: str) -> None:
    """Write jax or NumPy arrays by name, and metadata of one key.

    There is only one key: the library writes several in any order, and the bytes would differ.

    Raises:
      UserError: the package safetensors is missing.
    """
    _package()
    import safetensors.numpy

    tensors = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    data = safetensors.numpy.save(tensors, {key: value})
    write_atomically(Path(path), data)


def read(path: str | Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, and its metadata.

    Raises:
      UserError: the package safetensors is missing, or the file is not of that format.
    """
    package = _package()
    try:
        with package.safe_open(str(path), framework="numpy") as file:
            metadata = dict(file.metadata() or {})
        entries = package.deserialize(Path(path).read_bytes())
    except package.SafetensorError as error:
        raise UserError(f"{path}: no safetensors file ({error}); give another one") from None
    return {name: _array(path, name, entry) for name, entry in entries}, metadata


def _array(path: str | Path, name: str, entry: dict[str, Any]) -> np.ndarray:
    kind = DTYPES.get(entry["dtype"])
    if kind is None:
        raise UserError(
            f"{path}: {name}: {entry['dtype']} is unknown here; convert it to one of "
            f"{', '.join(DTYPES)}"
        )
    dtype = ml_dtypes.bfloat16 if kind == "bfloat16" else kind
    return np.frombuffer(entry["data"], dtype).reshape(entry["shape"])


def _package() -> ModuleType:
    try:
        import safetensors
    except ImportError:
        raise UserError(
            "safetensors: the package is not installed; pip install 'bmojo[export]'"
        ) from None
    return safetensors
