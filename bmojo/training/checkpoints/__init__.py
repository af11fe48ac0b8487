"""Checkpoints: what a run needs to go on, kept on disk, checked before it is used."""

from bmojo.training.checkpoints.load import restore_parameters
from bmojo.training.checkpoints.saved import Checkpoint, Checkpoints

__all__ = ["Checkpoint", "Checkpoints", "restore_parameters"]
