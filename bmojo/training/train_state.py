"""Where a run stands: all that changes while it trains, and that a checkpoint keeps."""

import dataclasses
import time
from typing import Any

import jax

from bmojo.layers.protocol import State
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.parameters import Parameters, flatten, initialize, unflatten
from bmojo.training.placed import shardings_of
from bmojo.training.run_setup import RunSetup


@dataclasses.dataclass
class TrainState:
    """Where a run stands between two steps.

    Attributes:
      parameters: of the model.
      optimizer_state: of the optimizer.
      step: steps done.
      stage: index of the stage that the last step belongs to.
      data: position in its data; None before the first step.
      carried: state of the model between two segments of a sequence; None between sequences.
      window: metrics of the steps since the last line; None for a skipped one.
      skipped: updates skipped one after the other.
      compile_seconds: spent on compiling.
      seconds_before: that the run took before this process.
    """

    parameters: Parameters
    optimizer_state: Any
    step: int = 0
    stage: int = 0
    data: dict[str, Any] | None = None
    carried: State | None = None
    window: list[list[float] | None] = dataclasses.field(default_factory=list)
    skipped: int = 0
    compile_seconds: float = 0.0
    seconds_before: float = 0.0
    began: float = dataclasses.field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """That the run has taken."""
        return self.seconds_before + time.monotonic() - self.began

    def checkpoint(self, setup: RunSetup) -> Checkpoint:
        """All of it, to be saved."""
        meta = {
            "stage": self.stage,
            "data": self.data,
            "window": self.window,
            "skipped": self.skipped,
            "seed": setup.trainer.seed,
            "seconds": self.seconds,
            "compile_seconds": self.compile_seconds,
            "config": setup.config_text,
        }
        within = self.data is not None and self.data["part"]
        carried = flatten(self.carried) if within else None
        return Checkpoint(self.step, self.parameters, self.optimizer_state, meta, carried)


def restore_or_begin(setup: RunSetup, checkpoints: Checkpoints) -> tuple[TrainState, list[str]]:
    """Where the newest good checkpoint stands, or the beginning; and what to warn of."""
    began = time.monotonic()

    def carried_shapes(meta: dict[str, Any]) -> dict[str, Any] | None:
        if not meta["data"]["part"]:
            return None
        return flatten(setup.state_shapes(setup.curriculum[meta["stage"]]))

    shapes = setup.optimizer_shapes()
    placed = setup.placed.parameters(setup.shapes)
    checkpoint, warnings = checkpoints.restore(placed, shapes, carried_shapes)
    if checkpoint is None:
        parameters = setup.placed.settle(initialize(setup.make, setup.placed.shardings))
        places = shardings_of(shapes) if setup.layout is not None else None
        state = jax.jit(setup.optimizer.init, out_shardings=places)(parameters)
        return TrainState(parameters, setup.placed.settle(state), began=began), warnings
    meta, carried = checkpoint.meta, None
    if checkpoint.carried is not None:
        fresh = setup.fresh_state(checkpoint.parameters, setup.curriculum[meta["stage"]])
        carried = unflatten(fresh, checkpoint.carried)
    return TrainState(
        checkpoint.parameters,
        checkpoint.optimizer_state,
        checkpoint.step,
        meta["stage"],
        meta["data"],
        carried,
        meta["window"],
        meta.get("skipped", 0),
        meta["compile_seconds"],
        meta["seconds"],
        began,
    ), warnings
