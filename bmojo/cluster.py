"""How the processes of a run find each other, as a command line or a scheduler says it."""

import dataclasses
import os
from collections.abc import Mapping

from bmojo.errors import UserError

__all__ = ["PEER_LOST", "Cluster", "cluster", "detect"]

PEER_LOST = 6
"""Exit code where another process of the run died or stopped."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """How processes find each other.

    Attributes:
      coordinator: HOST:PORT of the first process; None: JAX asks the scheduler.
      count: processes; None: JAX asks the scheduler.
      index: of this process; None: JAX asks the scheduler.
    """

    coordinator: str | None = None
    count: int | None = None
    index: int | None = None

    def __post_init__(self) -> None:
        given = [value is not None for value in (self.coordinator, self.count, self.index)]
        if any(given) and not all(given):
            raise UserError(
                "--coordinator, --num-processes, --process-id: give all three, or none where a "
                "scheduler is to be asked"
            )
        if self.coordinator is None:
            return
        assert self.count is not None and self.index is not None
        if (
            not self.coordinator.rpartition(":")[0]
            or not self.coordinator.rpartition(":")[2].isdigit()
        ):
            raise UserError(f"--coordinator: {self.coordinator!r} is not HOST:PORT")
        if self.count < 1:
            raise UserError(f"--num-processes: {self.count} is too small; give at least 1")
        if not 0 <= self.index < self.count:
            raise UserError(
                f"--process-id: {self.index} is not one of the {self.count} processes; give 0 to "
                f"{self.count - 1}"
            )


def detect(environment: Mapping[str, str] = os.environ) -> str | None:
    """The scheduler that started this process as one of several; None: nobody did.

    Slurm (srun), Open MPI (mpirun), and TPU slices on GKE are known by their variables.
    """
    if _number(environment, "SLURM_STEP_NUM_TASKS") > 1 and "SLURM_PROCID" in environment:
        return "Slurm"
    if _number(environment, "OMPI_COMM_WORLD_SIZE") > 1:
        return "Open MPI"
    if "TPU_WORKER_ID" in environment and "," in environment.get("TPU_WORKER_HOSTNAMES", ""):
        return "GKE"
    return None


def cluster(
    coordinator: str | None, count: int | None, index: int | None, distributed: bool | None
) -> Cluster | None:
    """What a command line says of other processes; None: there are none.

    Args:
      coordinator: HOST:PORT.
      count: processes.
      index: of this one.
      distributed: whether to ask the scheduler; None: if it started several.

    Raises:
      UserError: only a part of it is said.
    """
    if coordinator is not None or count is not None or index is not None:
        return Cluster(coordinator, count, index)
    if distributed or (distributed is None and detect() is not None):
        return Cluster()
    return None


def _number(environment: Mapping[str, str], name: str) -> int:
    value = environment.get(name, "")
    return int(value) if value.isdigit() else 0
