"""Implementations of an operation: their names, and the one that ``auto`` stands for."""

import dataclasses
import functools
import logging

import jax

from bmojo.ops.native import library

ACCELERATORS = ("tpu", "gpu", "cuda", "rocm")

logger = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Implementations:
    """The implementations of one operation.

    Attributes:
      operation: its name in log lines.
      names: implementations beside ``auto``.
      accelerator: ``auto`` on a TPU or GPU.
      otherwise: ``auto`` on any other device.
      cpu: ``auto`` on a CPU without native kernels; None: ``otherwise``.
      field: the argument or config field that errors name.
    """

    operation: str
    names: tuple[str, ...]
    accelerator: str
    otherwise: str
    cpu: str | None = None
    field: str = "implementation"

    def check(self, name: str) -> None:
        """Raise ValueError unless there is an implementation of that name."""
        if name not in ("auto", *self.names):
            known = ", ".join(("auto", *self.names))
            raise ValueError(f"{self.field}: must be one of {known}, got {name!r}")

    def resolve(self, name: str) -> str:
        """The implementation that a name stands for on JAX's default backend.

        ``auto`` is ``native`` on a CPU whose kernels can be compiled.

        Raises:
          ValueError: there is no implementation of that name, or it is ``native`` and there
            are no native kernels here.
        """
        self.check(name)
        if name == "auto":
            return _automatic(self, jax.default_backend())
        if name == "native" and (reason := library.unfit()) is not None:
            other = self.cpu or self.otherwise
            raise ValueError(f"{self.field}: no native kernels: {reason}; take {other!r}")
        return name

    def describe(self, name: str) -> str:
        """The implementation that runs here, with a note where ``auto`` chose it."""
        note = f" (auto on {jax.default_backend()})" if name == "auto" else ""
        return self.resolve(name) + note

    def instead(self, name: str, taken: str, reason: str, asked: bool = False) -> str:
        """``taken`` in place of ``name``; a log line says so once for each reason."""
        _report(self.operation, name, taken, reason, logging.WARNING if asked else logging.INFO)
        return taken


@functools.cache
def _automatic(operation: Implementations, backend: str) -> str:
    choice, reason = operation.otherwise, None
    if backend in ACCELERATORS:
        choice = operation.accelerator
    elif backend == "cpu":
        choice = operation.cpu or operation.otherwise
        if "native" in operation.names:
            reason = library.why_not()
            choice = "native" if reason is None else choice
    place = "" if reason is None else f" in place of native: {reason}"
    level = logging.INFO if reason is None else logging.WARNING
    logger.log(level, "%s on %s: %s%s", operation.operation, backend, choice, place)
    return choice


@functools.cache
def _report(operation: str, name: str, taken: str, reason: str, level: int) -> None:
    logger.log(level, "%s by %s in place of %s: %s", operation, taken, name, reason)


def forget() -> None:
    """Forget automatic choices and reported reasons, as a change of the backend requires."""
    _automatic.cache_clear()
    _report.cache_clear()
