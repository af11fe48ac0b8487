"""Checkpoints: the whole state of a run on disk, verified before it is used."""

from bmojo.training.checkpoints.manager import Checkpoint, Checkpoints
from bmojo.training.checkpoints.reading import restore_parameters

__all__ = ["Checkpoint", "Checkpoints", "restore_parameters"]
