"""Folders of Hugging Face's transformers: a model's parameters read from one, or written to one.

Tensors are read and written one block at a time, so that the memory is that of the parameters.
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from bmojo.errors import UserError
from bmojo.export.families import FAMILIES, Family, family_of, model_config
from bmojo.export.shards import DTYPES, Entry, read_headers, read_into, write_shards
from bmojo.model import ModelConfig, solve_widths
from bmojo.training.parameters import Parameters, outline

__all__ = ["SHARD_BYTES", "Folder", "read_config", "weights", "write_weights"]

SHARD_BYTES = 5 * 10**9
"""Of a file, at most, by default."""

ALIGNED = 64
"""Bytes of the alignment with which JAX takes arrays on the host without a copy."""


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a file as a part of a parameter.

    Attributes:
      parameter: its name here.
      block: index of the first axis; None: it has no axis of blocks.
      part: which of ``parts`` of the last axis.
      parts: equal parts of the last axis.
    """

    parameter: str
    block: int | None
    part: int = 0
    parts: int = 1

    def view(self, array: np.ndarray) -> np.ndarray:
        """The part of the parameter in the layout of the file, without a copy."""
        if self.block is not None:
            array = array[self.block]
        width = array.shape[-1] // self.parts
        array = array[..., self.part * width : (self.part + 1) * width]
        if self.parameter.endswith("conv.kernel"):  # the oldest token's tap first
            return array[::-1].T[:, None]
        return array.T if self.parameter.endswith(".kernel") else array


def tensors(family: Family, config: ModelConfig, shapes: Mapping[str, Any]) -> dict[str, Tensor]:
    """The tensors of a model's files by name, each as a part of a parameter."""
    found = {}
    for ours, theirs in family.outer.items():
        if ours in shapes:
            found[str(theirs)] = Tensor(ours, None)
    count = len(config.pattern)
    for layer in range(config.num_blocks * count // family.sublayers):
        block, first = divmod(layer * family.sublayers, count)
        for ours, names in family.inner.items():
            index, _, rest = ours.partition(".")
            parameter = f"blocks.sublayers.{first + int(index)}.{rest}"
            if parameter not in shapes:
                continue
            names = (names,) if isinstance(names, str) else names
            for part, name in enumerate(names):
                place = family.layer.format(layer) + name
                found[place] = Tensor(parameter, block, part, len(names))
    return found


def read_config(folder: Path) -> dict[str, Any]:
    """What the ``config.json`` of a folder holds; UserError if it cannot be read."""
    path = folder / "config.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder; give one with config.json and safetensors")
    try:
        found = json.loads(path.read_text(encoding="utf8"))
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a folder with it"
        ) from None
    except ValueError:
        raise UserError(f"{path}: is not JSON; fetch it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: is no config; fetch it again")
    return found


class Folder:
    """A model in a folder of Hugging Face, before its tensors are read.

    Attributes:
      json: what ``config.json`` holds.
      model_type: of the family.
      config: of the model, its ``dtype`` and ``param_dtype`` the widest of the tensors.
      shapes: of its parameters, by name.
    """

    def __init__(self, path: str | Path) -> None:
        """Read ``config.json`` and the headers of the files, and compare them.

        Raises:
          UserError: one line with file and name: an unknown architecture, an option without
            counterpart, a missing, superfluous or otherwise shaped tensor.
        """
        self.path = Path(path)
        self.json = read_config(self.path)
        try:
            self.model_type, config = model_config(self.json)
        except UserError as error:
            raise UserError(f"{self.path / 'config.json'}: {error}") from None
        self._entries = read_headers(self.path)
        dtype = str(np.result_type(*{entry.numpy_dtype for entry in self._entries.values()}))
        self.config = dataclasses.replace(config, dtype=dtype, param_dtype=dtype)
        self.shapes: Parameters = outline(lambda: self.config.make(nnx.Rngs(0)))[1]
        self._tensors = tensors(FAMILIES[self.model_type], self.config, self.shapes)
        self._check()

    def _check(self) -> None:
        unread = FAMILIES[self.model_type].unread
        if self.config.tie_embeddings:
            unread += (FAMILIES[self.model_type].outer["head.kernel"],)  # type: ignore[operator]
        for name in self._entries.keys() - self._tensors.keys():
            if unread and name.endswith(unread):
                self._entries.pop(name)
        wanted, there = self._tensors.keys(), self._entries.keys()
        for name in sorted(wanted - there):
            raise UserError(f"{self.path}: {name} is missing; fetch the files again")
        for name in sorted(there - wanted):
            raise UserError(
                f"{self._entries[name].path}: {name} has no counterpart in a {self.model_type} "
                "of this config.json; check config.json"
            )
        for name, tensor in self._tensors.items():
            shape = tensor.view(_nothing(self.shapes[tensor.parameter].shape)).shape
            if self._entries[name].shape != shape:
                raise UserError(
                    f"{self._entries[name].path}: {name} has the shape "
                    f"{list(self._entries[name].shape)}, config.json makes it {list(shape)}; "
                    "check config.json"
                )

    def parameters(self) -> Parameters:
        """All parameters on the host; no number is in memory twice."""
        by_parameter: dict[str, list[tuple[Entry, Tensor]]] = {}
        for name, tensor in self._tensors.items():
            by_parameter.setdefault(tensor.parameter, []).append((self._entries[name], tensor))
        found, cpu = {}, jax.local_devices(backend="cpu")[0]
        for name, shape in self.shapes.items():
            array = _aligned(shape.shape, shape.dtype)
            for entry, tensor in by_parameter[name]:
                read_into(entry, tensor.view(array))
            found[name] = jax.device_put(array, cpu)
        return found


def weights(
    config: ModelConfig, parameters: Mapping[str, Any]
) -> tuple[dict[str, tuple[int, ...]], Any]:
    """Shapes of the tensors of a model's files by name, and a function that gives one by name.

    A tied head is not scaled there: the factor goes into the weight of the last norm.
    """
    config = solve_widths(config)
    parts = tensors(FAMILIES[family_of(config)], config, parameters)

    def get(name: str) -> np.ndarray:
        tensor = parts[name]
        array = np.asarray(parameters[tensor.parameter])
        if tensor.parameter == "norm.scale" and config.tie_embeddings and config.tied_scale != 1:
            array = (array.astype(np.float64) * config.tied_scale).astype(array.dtype)
        return tensor.view(array)

    empty = {name: _nothing(parameters[tensor.parameter].shape) for name, tensor in parts.items()}
    return {name: tensor.view(empty[name]).shape for name, tensor in parts.items()}, get


def write_weights(
    folder: Path,
    config: ModelConfig,
    parameters: Mapping[str, Any],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write the safetensors files of a model; UserError if no family can express it."""
    shapes, get = weights(config, parameters)
    dtype = jnp.dtype(config.param_dtype)
    if dtype not in map(np.dtype, DTYPES.values()):
        raise UserError(
            f"--format huggingface: parameters of {config.param_dtype} are not written; train "
            "with Model.param_dtype='float32'"
        )
    write_shards(folder, shapes, dtype, get, shard_bytes)


def _nothing(shape: tuple[int, ...]) -> np.ndarray:
    """An array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), bool), shape)


def _aligned(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that JAX takes on the host as it is."""
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    buffer = np.empty(size + ALIGNED, np.uint8)
    start = -buffer.ctypes.data % ALIGNED
    return buffer[start : start + size].view(dtype).reshape(shape)
