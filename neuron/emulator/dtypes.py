"""Data types by name, and conversion between them as the engines do it.

A dtype is a string, such as ``"float32"``: so is the real package's, and comparing two
strings is the same everywhere.
"""

from typing import Any

import ml_dtypes
import numpy as np

_NUMPY: dict[str, np.dtype] = {
    "float32": np.dtype(np.float32),
    "tfloat32": np.dtype(np.float32),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
    "float8_e4m3": np.dtype(ml_dtypes.float8_e4m3),
    "float8_e4m3fn": np.dtype(ml_dtypes.float8_e4m3fn),
    "float8_e5m2": np.dtype(ml_dtypes.float8_e5m2),
    "int8": np.dtype(np.int8),
    "int16": np.dtype(np.int16),
    "int32": np.dtype(np.int32),
    "uint8": np.dtype(np.uint8),
    "uint16": np.dtype(np.uint16),
    "uint32": np.dtype(np.uint32),
    "bool_": np.dtype(np.uint8),
}

NAMES = tuple(_NUMPY)
FLOATS = tuple(name for name in NAMES if "float" in name)
INTEGERS = tuple(name for name in NAMES if "float" not in name)
FLOAT8 = ("float8_e4m3", "float8_e4m3fn", "float8_e5m2")

POISON_INTEGER = 4
"""What integer memory holds before the first write; float memory holds NaN."""


def name_of(dtype: Any) -> str:
    """The name of a dtype given as a name, a NumPy or ml_dtypes type, or a JAX type.

    Raises:
      ValueError: the hardware has no such dtype.
    """
    if isinstance(dtype, str):
        name = dtype
    else:
        try:
            name = np.dtype(dtype).name
        except TypeError:
            name = getattr(dtype, "__name__", repr(dtype))
    name = {"bool": "bool_"}.get(name, name)
    if name not in _NUMPY:
        raise ValueError(f"dtype {name!r} is none of {', '.join(NAMES)}")
    return name


def numpy_dtype(name: str) -> np.dtype:
    """The NumPy dtype that holds values of a named dtype."""
    return _NUMPY[name]


def itemsize(name: str) -> int:
    """Bytes of one element."""
    return _NUMPY[name].itemsize


def is_float(name: str) -> bool:
    """True of floating-point dtypes."""
    return name in FLOATS


def poison(name: str) -> float | int:
    """The value that memory of this dtype holds before its first write."""
    return float("nan") if is_float(name) else POISON_INTEGER


def cast(values: np.ndarray, source: str, target: str) -> np.ndarray:
    """Values of one dtype in another, by way of float32 unless the two are the same.

    Floats round to nearest even. Integers are rounded to nearest even and saturate; NaN
    becomes zero.

    Args:
      values: an array; float32 where ``source`` is a result of arithmetic.
      source: the dtype that the values stand for.
      target: the dtype to give.

    Returns:
      A new array of the NumPy dtype of ``target``.
    """
    if source == target:
        return np.array(values, dtype=_NUMPY[target])
    wide = values.astype(np.float32)
    if target == "tfloat32":
        return _round_mantissa(wide, 13)
    if is_float(target):
        return wide.astype(_NUMPY[target])
    limits = np.iinfo(_NUMPY[target])
    whole = np.rint(np.nan_to_num(wide.astype(np.float64), nan=0.0, posinf=np.inf, neginf=-np.inf))
    return np.clip(whole, limits.min, limits.max).astype(_NUMPY[target])


def _round_mantissa(values: np.ndarray, drop: int) -> np.ndarray:
    """Float32 values with the last ``drop`` bits of the mantissa rounded away, ties to even."""
    bits = values.view(np.uint32).astype(np.uint64)
    half = np.uint64((1 << (drop - 1)) - 1)
    odd = (bits >> np.uint64(drop)) & np.uint64(1)
    rounded = ((bits + half + odd) >> np.uint64(drop)) << np.uint64(drop)
    return np.where(np.isfinite(values), rounded.astype(np.uint32).view(np.float32), values)
