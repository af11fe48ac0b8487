"""The setup of a run: its experiment, and all that follows from it without training."""

import functools
import importlib.util
from typing import Any

import jax
import numpy as np
from flax import nnx

from bmojo.description import describe
from bmojo.layers.protocol import GROUPS, State, parameter_axes
from bmojo.model import ModelConfig
from bmojo.multihost import Processes
from bmojo.training import machine
from bmojo.training.config import Stage
from bmojo.training.experiment import Curriculum, Experiment, check
from bmojo.training.optimizer import make_optimizer, schedule
from bmojo.training.parameters import Parameters, count, initialize, outline
from bmojo.training.report import untested_versions
from bmojo.training.run_dir import RunError
from bmojo.training.sharding import Layout, make_layout, shardings_of
from bmojo.training.train_step import make_fresh_state, make_train_step

TOKEN_BYTES = 4


class RunSetup:
    """An experiment on the devices that are here, before anything is computed.

    ``layout`` is by default that of the experiment's mesh on all devices; ``shapes`` are those of
    the parameters, with their shardings; ``learning_rate`` is a function of updates done. Raises
    RunError where the configs do not fit each other, or the devices.
    """

    def __init__(
        self,
        experiment: Experiment,
        processes: Processes,
        config_text: str = "",
        layout: Layout | None = None,
    ):
        self.experiment, self.trainer = experiment, experiment.trainer
        self.processes, self.config_text = processes, config_text
        self.layout = layout or make_layout(experiment.mesh, processes.count)
        check(experiment, self.layout)
        segments, extra = self.trainer.segments_per_document, self.trainer.extra_steps
        self.curriculum = Curriculum(experiment.curriculum, segments, extra)
        self.structure, shapes = outline(self.make)
        axes = parameter_axes(nnx.eval_shape(self.make))
        self.shapes = self.layout.parameters(axes, shapes)
        config, steps = experiment.optimizer, self.curriculum.planned
        there = {group.rate for group in self.structure.groups.values()}
        for group in sorted(set(GROUPS) - {"other"} - there):
            if getattr(config, f"{group}_learning_rate") is not None:
                raise RunError(
                    f"Optimizer.{group}_learning_rate: no parameter of the model is in the group "
                    f"{group!r}; leave it out"
                )
        self.optimizer = make_optimizer(config, steps, self.structure.groups)
        self.learning_rate = schedule(config, steps)
        self._fresh = make_fresh_state(self.structure, self.layout)
        self._check_room()

    def _check_room(self) -> None:
        """Refuse what no compiler can fit: a lower bound of the bytes of a step is too much."""
        here, model = machine.devices(self.processes), self.experiment.model
        memory, shares = here["memory_bytes"], self.layout.devices
        if here["platform"] == "cpu":
            memory, shares = here["machine_memory_bytes"], self.processes.count
        leaves = jax.tree.leaves((self.shapes, self.shapes, self.optimizer_shapes()))
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
        batch = 0
        if isinstance(model, ModelConfig):
            stage = max(self.curriculum.stages, key=lambda s: s.batch_size * s.data.length)
            tokens = stage.batch_size * stage.data.length // self.curriculum.segments
            state = jax.tree.leaves(self.state_shapes(stage))
            batch = tokens * (2 * TOKEN_BYTES + model.d_model * np.dtype(model.dtype).itemsize)
            batch += sum(leaf.size * leaf.dtype.itemsize for leaf in state) // model.num_blocks
            batch //= self.trainer.accumulate
        if memory is not None and held + batch > memory * shares:
            raise RunError(
                f"Experiment: a step needs more than {machine.size(held)} for parameters and "
                f"optimizer and {machine.size(batch)} for its tokens and state, and there are "
                f"{machine.size(memory * shares)}; make the model, the rows or their length smaller"
            )

    def make(self) -> Any:
        """A new model."""
        return self.experiment.model.make(nnx.Rngs(self.trainer.seed))

    def train_step(self) -> jax.stages.Wrapped:
        """The optimizer step of this run; see :func:`bmojo.training.train_step.make_train_step`."""
        places, skip = shardings_of(self.shapes), self.trainer.on_nonfinite == "skip"
        parts = self.trainer.accumulate
        return make_train_step(self.structure, self.optimizer, self.layout, places, parts, skip)

    def optimizer_shapes(self) -> Any:
        """Shapes of the optimizer's state with their shardings."""
        return self.layout.optimizer(self.shapes, jax.eval_shape(self.optimizer.init, self.shapes))

    def initialize(self) -> tuple[Parameters, Any]:
        """New parameters and optimizer state, each device with its part."""
        parameters = self.layout.settle(initialize(self.make, shardings_of(self.shapes)))
        return parameters, self.begin_optimizer(parameters)

    def begin_optimizer(self, parameters: Parameters) -> Any:
        """The optimizer's state before the first update."""
        places = shardings_of(self.optimizer_shapes())
        return self.layout.settle(jax.jit(self.optimizer.init, out_shardings=places)(parameters))

    def fresh_state(self, parameters: Parameters, stage: Stage) -> State:
        """State of the model before the first segment of a stage's sequences."""
        return self.layout.settle(self._fresh(parameters, stage.batch_size, stage.data.length))

    def state_shapes(self, stage: Stage) -> State:
        """Shapes of :meth:`fresh_state` with their shardings."""
        rows, length = stage.batch_size, stage.data.length
        state = jax.eval_shape(lambda p: self._fresh(p, rows, length), self.shapes)
        return self.layout.state(state)

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """Parameters and, of a :class:`ModelConfig`, bytes of state and floating-point operations.

        ``state_bytes`` is one row's recurrent state after the longest training sequence,
        ``key_value_bytes`` the keys and values of attention. ``flops_per_token`` is forward, by
        length; ``training_flops`` takes a backward pass for two forward ones.
        """
        facts: dict[str, Any] = {"parameters": count(self.shapes)}
        if not isinstance(self.experiment.model, ModelConfig):
            return facts
        description, stages = describe(self.experiment.model), self.curriculum.stages
        lengths = sorted({stage.data.length for stage in stages})
        per_token = {length: description.flops_per_token(length) for length in lengths}
        facts["embedding_parameters"] = description.embedding_parameters
        facts["state_bytes"], facts["key_value_bytes"] = description.memory(lengths[-1])
        facts["flops_per_token"] = {str(length): flops for length, flops in per_token.items()}
        facts["training_flops"] = 3.0 * sum(
            stage.steps * stage.batch_size * stage.data.length * per_token[stage.data.length]
            for stage in stages
        )
        return facts

    def head(self) -> list[str]:
        """Lines before the first step: sizes, untested versions, devices, implementations."""
        facts = self.facts
        line = f"{facts['parameters']:,} parameters"
        if "state_bytes" in facts:
            longest = max(stage.data.length for stage in self.experiment.curriculum)
            line += (
                f", {facts['state_bytes'] + facts['key_value_bytes']:,} bytes of state a row "
                f"after {longest} tokens, {facts['training_flops']:.2e} FLOPs in all"
            )
        lines = [line, *(f"warning: {text}" for text in untested_versions())]
        if self.layout.mesh is not None:
            others = self.processes.count
            where = "one process" if others == 1 else f"{others} processes"
            lines.append(f"mesh {self.layout}: {self.layout.devices} devices in {where}")
        elif jax.default_backend() != "cpu" and jax.device_count() > 1:
            here = jax.device_count()
            lines.append(f"1 of {here} devices is used; all with 'Experiment.mesh=@Mesh()'")
        if self.trainer.tensorboard and importlib.util.find_spec("tensorboardX") is None:
            lines.append(
                "warning: Trainer.tensorboard: no events, as tensorboardX is not installed; "
                "pip install 'bmojo[tensorboard]', or Trainer.tensorboard=False"
            )
        chosen = implementations(self.experiment.model).items()
        return lines + [f"{what}: {implementation}" for what, implementation in chosen]


def implementations(model_config: Any) -> dict[str, str]:
    """The implementations of scans, attention and read-out; ValueError if not here."""
    found: dict[str, str] = {}
    parts = (*getattr(model_config, "pattern", ()), getattr(model_config, "readout", None))
    for part in parts:
        found |= getattr(part, "implementations", {})
    return found
