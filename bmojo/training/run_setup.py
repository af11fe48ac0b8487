"""What a run is made of, checked and worked out before it has a directory."""

from collections.abc import Sequence
from typing import Any

import jax
from flax import nnx

from bmojo.layers.protocol import State
from bmojo.training.config import Evaluation, OptimizerConfig, Stage, TrainerConfig
from bmojo.training.curriculum import Curriculum, check
from bmojo.training.mesh import MeshConfig, make_layout
from bmojo.training.optimizer import make_optimizer, schedule
from bmojo.training.parameters import Parameters, outline
from bmojo.training.placed import Placed
from bmojo.training.processes import Processes
from bmojo.training.report import costs, implementations
from bmojo.training.train_step import make_fresh_state


class RunSetup:
    """Configs of a run, and all that follows from them without training.

    Attributes:
      layout: where arrays lie; None: on one device.
      plan: the arithmetic of the curriculum.
      structure: of the model.
      shapes: of its parameters.
      placed: where they are to lie.
      optimizer: of its parameters.
      learning_rate: by update.
      facts: parameters, bytes of state and operations.

    Raises:
      RunError: the configs do not fit each other, or the devices.
    """

    def __init__(
        self,
        model_config: Any,
        optimizer_config: OptimizerConfig,
        trainer: TrainerConfig,
        curriculum: Sequence[Stage],
        evaluations: Sequence[Evaluation],
        config_text: str,
        mesh: MeshConfig | None,
        processes: Processes,
    ):
        self.model_config, self.trainer, self.config_text = model_config, trainer, config_text
        self.curriculum, self.evaluations = tuple(curriculum), tuple(evaluations)
        self.processes = processes
        self.layout = make_layout(mesh, processes.count)
        check(model_config, trainer, curriculum, evaluations, self.layout)
        self.plan = Curriculum(curriculum, trainer.segments_per_document)
        self.structure, self.shapes = outline(self.make)
        self.placed = Placed(self.layout, self.make, self.shapes)
        self.optimizer = make_optimizer(optimizer_config, self.plan.total, self.structure.names)
        self.learning_rate = schedule(optimizer_config, self.plan.total)
        self.facts = costs(model_config, self.shapes, self.curriculum)
        self._fresh = make_fresh_state(self.structure, self.layout)

    def make(self) -> Any:
        """A new model."""
        return self.model_config.make(nnx.Rngs(self.trainer.seed))

    def optimizer_shapes(self) -> Any:
        """Shapes of the optimizer's state, placed."""
        return self.placed.optimizer(jax.eval_shape(self.optimizer.init, self.shapes))

    def fresh_state(self, parameters: Parameters, stage: Stage) -> State:
        """State of the model before the first segment of a stage's sequences."""
        rows, length = stage.batch_size, stage.data.length
        return self.placed.settle(self._fresh(parameters, rows, length))

    def state_shapes(self, stage: Stage) -> State:
        """Shapes of :meth:`fresh_state`, placed."""
        rows, length = stage.batch_size, stage.data.length
        state = jax.eval_shape(lambda p: self._fresh(p, rows, length), self.shapes)
        return self.placed.state(state)

    def head(self) -> list[str]:
        """What to say of the run before it begins: sizes, devices, who computes what."""
        facts = self.facts
        line = f"{facts['parameters']:,} parameters"
        if "state_bytes" in facts:
            longest = max(stage.data.length for stage in self.curriculum)
            line += (
                f", {facts['state_bytes'] + facts['key_value_bytes']:,} bytes of state a row "
                f"after {longest} tokens, {facts['training_flops']:.2e} FLOPs in all"
            )
        lines = [line]
        if self.layout is not None:
            count = self.processes.count
            where = "one process" if count == 1 else f"{count} processes"
            lines.append(f"mesh {self.layout}: {self.layout.mesh.size} devices in {where}")
        elif jax.default_backend() != "cpu" and jax.device_count() > 1:
            count = jax.device_count()
            lines.append(f"1 of {count} devices is used; all with 'Experiment.mesh=@Mesh()'")
        chosen = implementations(self.model_config).items()
        return lines + [f"{what}: {implementation}" for what, implementation in chosen]
