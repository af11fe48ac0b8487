"""The state of training: all that changes in a run, and that a checkpoint keeps."""

import dataclasses
import math
import time
from typing import Any

from bmojo.layers.protocol import State
from bmojo.ops.native import library
from bmojo.training.checkpoints import Checkpoint, Checkpoints
from bmojo.training.metrics import AVERAGED
from bmojo.training.parameters import Parameters, flatten, unflatten
from bmojo.training.run_setup import RunSetup, implementations
from bmojo.training.warm_start import WarmStart

META = (
    "stage", "data", "window", "final", "metrics", "best", "updates", "skipped", "compile_seconds"
)  # fmt: skip
"""Fields that lie in a checkpoint's ``meta``."""


@dataclasses.dataclass
class TrainState:
    """The state of a run between two steps.

    ``stage`` is that of the last step, ``data`` the position in it, None before the first step;
    ``carried`` the model's state between two segments of a sequence, None between sequences;
    ``window`` the metrics of the steps since the last line, None for a skipped one; ``final`` the
    means of that line; ``metrics`` length and hash of ``metrics.jsonl``; ``best`` step and value of
    the best evaluation; ``updates`` counts those made, ``skipped`` those skipped one after another;
    ``began_with`` says what a warm start took.
    """

    parameters: Parameters
    optimizer_state: Any
    step: int = 0
    stage: int = 0
    data: dict[str, Any] | None = None
    carried: State | None = None
    window: list[list[float] | None] = dataclasses.field(default_factory=list)
    final: dict[str, float] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(AVERAGED, math.nan)
    )
    metrics: dict[str, Any] | None = None
    best: tuple[int | None, float | None] | None = None
    updates: int = 0
    skipped: int = 0
    compile_seconds: float = 0.0
    seconds_before: float = 0.0
    began: float = dataclasses.field(default_factory=time.monotonic)
    began_with: list[str] = dataclasses.field(default_factory=list)

    @property
    def seconds(self) -> float:
        """Wall time of the run."""
        return self.seconds_before + time.monotonic() - self.began

    def checkpoint(self, setup: RunSetup) -> Checkpoint:
        """The checkpoint of this state."""
        meta = {name: getattr(self, name) for name in META}
        meta |= {"seed": setup.trainer.seed, "seconds": self.seconds, "config": setup.config_text}
        meta["kernels"] = library.in_use()
        within = self.data is not None and self.data["part"]
        carried = flatten(self.carried) if within else None
        return Checkpoint(self.step, self.parameters, self.optimizer_state, meta, carried)


def _begin(setup: RunSetup, checkpoints: Checkpoints, began: float) -> TrainState:
    """A new state; that of a warm start is saved at once, so that its source is read once."""
    parameters, optimizer_state = setup.initialize()
    if setup.trainer.init_from is None:
        return TrainState(parameters, optimizer_state, began=began)
    start = WarmStart(setup)
    now = TrainState(start.parameters(parameters), optimizer_state, began=began)
    now.began_with = start.lines()
    checkpoints.save(now.checkpoint(setup))
    return now


def restore_or_begin(setup: RunSetup, checkpoints: Checkpoints) -> tuple[TrainState, list[str]]:
    """The state of the newest good checkpoint, or a new one; and lines to warn with."""
    began, stages = time.monotonic(), setup.experiment.curriculum

    def carried_shapes(meta: dict[str, Any]) -> dict[str, Any] | None:
        within = meta["data"] is not None and meta["data"]["part"]
        return flatten(setup.state_shapes(stages[meta["stage"]])) if within else None

    found, warnings = checkpoints.restore(setup.shapes, setup.optimizer_shapes(), carried_shapes)
    if found is None:
        return _begin(setup, checkpoints, began), warnings
    meta, carried = found.meta, None
    implementations(setup.experiment.model)  # which loads the kernels that the model has
    before, here = (name or "no kernels" for name in (meta.get("kernels"), library.in_use()))
    if "kernels" in meta and before != here:
        warnings.append(
            f"step {found.step} was trained with {before}, this goes on with {here}: last digits "
            "may differ"
        )
    if found.carried is not None:
        fresh = setup.fresh_state(found.parameters, stages[meta["stage"]])
        carried = unflatten(fresh, found.carried)
    kept: dict[str, Any] = {"updates": found.step}
    kept |= {name: meta[name] for name in META if name in meta}
    kept |= {"carried": carried, "seconds_before": meta["seconds"], "began": began}
    optimizer_state = found.optimizer_state
    if optimizer_state is None:
        optimizer_state = setup.begin_optimizer(found.parameters)
    return TrainState(found.parameters, optimizer_state, found.step, **kept), warnings
