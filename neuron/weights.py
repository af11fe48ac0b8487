"""Parameters between a run of bmojo, the model for PyTorch and safetensors files.

A parameter keeps the name of its path. What bmojo stacks over periods is one parameter for each
period here, and a ``kernel`` (in, out) of a product is a ``weight`` (out, in).
"""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bmojo.export import tensors
from neuron.configs import StackConfig, stack_config
from neuron.layer import BMojoLayer
from neuron.model import Model
from neuron.selective_ssm import Implementation, Projection

CONFIG_KEY = "bmojo_config"
"""Key of the config in a file's metadata, JSON."""


@dataclasses.dataclass(frozen=True)
class Source:
    """Where a parameter of the model for PyTorch is in bmojo.

    Attributes:
      name: of bmojo's parameter.
      period: index into its first axis; None: it has no such axis.
      turned: whether the last two axes are exchanged.
    """

    name: str
    period: int | None
    turned: bool


def sources(model: nn.Module) -> dict[str, Source]:
    """Where each parameter of a model or layer comes from, by its name."""
    found = {}
    for owner, module in model.named_modules():
        for leaf, _ in module.named_parameters(recurse=False):
            name = f"{owner}.{leaf}" if owner else leaf
            turned = isinstance(module, Projection)
            other = {nn.Embedding: "embedding", Projection: "kernel"}.get(type(module), leaf)
            path = owner.split(".") if owner else []
            period = None
            if isinstance(model, Model) and path[:1] == ["blocks"]:
                period = int(path.pop(1))
            found[name] = Source(".".join([*path, other]), period, turned)
    return found


@torch.no_grad()
def load_parameters(model: nn.Module, parameters: Mapping[str, Any]) -> None:
    """Copy bmojo's parameters into a model or layer.

    Args:
      model: a :class:`neuron.model.Model`, or a :class:`neuron.layer.BMojoLayer` for those of
        ``bmojo.layers.bmojo.BMojo``.
      parameters: arrays by bmojo's names, as :func:`bmojo.training.parameters.split` gives
        them.

    Raises:
      ValueError: a parameter is missing, left over, or of another shape or dtype; the message
        names it. Nothing is copied then.
    """
    places = sources(model)
    targets = dict(model.named_parameters())
    wanted = {source.name for source in places.values()}
    for name in sorted(wanted ^ parameters.keys()):
        there = "absent in the checkpoint" if name in wanted else "not of the model"
        raise ValueError(f"parameter {name}: is {there}; take the config that it was made with")
    arrays = {name: np.asarray(value) for name, value in parameters.items()}
    periods = len({source.period for source in places.values()} - {None})
    copies = []
    for name, source in places.items():
        array, target = arrays[source.name], targets[name]
        shape = tuple(target.shape[::-1] if source.turned else target.shape)
        if source.period is not None:
            shape = (periods, *shape)
        if array.shape != shape:
            raise ValueError(
                f"parameter {source.name}: is {array.shape} in the checkpoint and {shape} in the "
                "model; take the config that it was made with"
            )
        kind = str(target.dtype).removeprefix("torch.")
        if array.dtype.name != kind:
            raise ValueError(
                f"parameter {source.name}: is {array.dtype.name} in the checkpoint and {kind} in "
                "the model; set param_dtype"
            )
        array = array if source.period is None else array[source.period]
        copies.append((target, array.T if source.turned else array))
    for target, array in copies:
        target.copy_(_tensor(array).to(target.device))


def load_layer(layer: BMojoLayer, mixer: Any) -> None:
    """Copy the parameters of a ``bmojo.layers.bmojo.BMojo`` into a layer."""
    from bmojo.training.parameters import split

    load_parameters(layer, split(mixer)[1])


def load_run(
    run_dir: str | Path, implementation: Implementation = "torch", step: int | None = None
) -> Model:
    """The model of a run directory of ``bmojo train``, with the parameters of a checkpoint.

    Args:
      run_dir: of the run; it is only read.
      implementation: of the layers.
      step: of the checkpoint; None: the newest.

    Raises:
      bmojo.errors.UserError: there is no run or no such checkpoint.
      ValueError: the model has an option without a kernel.
    """
    from bmojo.model import solve_widths
    from bmojo.runs import open_run

    run = open_run(run_dir, step)
    model = Model(stack_config(solve_widths(run.experiment.model)), implementation)
    load_parameters(model, run.parameters)
    return model


def save(model: Model, path: str | Path) -> None:
    """Write parameters and config as a safetensors file, whole or not at all."""
    arrays = {name: _array(parameter.detach()) for name, parameter in model.named_parameters()}
    config = json.dumps(model.config.to_dict(), sort_keys=True)
    tensors.write(path, arrays, CONFIG_KEY, config)


def open_file(path: str | Path, implementation: Implementation = "torch") -> Model:
    """The model of a file that :func:`save` wrote.

    Raises:
      ValueError: the file has no config, or a parameter is missing, left over, or of another
        shape or dtype.
    """
    arrays, metadata = tensors.read(path)
    written = metadata.get(CONFIG_KEY)
    if written is None:
        raise ValueError(f"{path}: has no {CONFIG_KEY} in its metadata; write it with save")
    found = {name: _tensor(array) for name, array in arrays.items()}
    model = Model(StackConfig.from_dict(json.loads(written)), implementation)
    targets = dict(model.named_parameters())
    for name in sorted(targets.keys() | found.keys()):
        here, there = (_outline(x.get(name)) for x in (targets, found))
        if here != there:
            raise ValueError(f"{path}: {name}: is {there} in the file and {here} in the model")
    with torch.no_grad():
        for name, target in targets.items():
            target.copy_(found[name])
    return model


def _outline(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"


def _tensor(array: np.ndarray) -> Tensor:
    array = np.ascontiguousarray(array)
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _array(tensor: Tensor) -> np.ndarray:
    tensor = tensor.cpu().contiguous()
    if tensor.dtype == torch.bfloat16:
        import ml_dtypes

        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
