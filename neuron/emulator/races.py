"""Elements that two programs touch between two barriers, at least one of them writing."""

from typing import Any, NoReturn

import numpy as np

from neuron.emulator.rules import RaceError
from neuron.emulator.session import op_name


def note_read(tensor: Any, program: int) -> None:
    """Note that a program reads a view.

    Raises:
      RaceError: another program has written part of it.
    """
    writers = tensor.marks(tensor.storage.writers)
    if (clash := writers & np.uint8(0xFF ^ (1 << program))).any():
        _fail(tensor, program, clash, "reads what", "wrote")
    tensor.marks(tensor.storage.readers)[...] |= np.uint8(1 << program)


def note_write(tensor: Any, program: int) -> None:
    """Note that a program writes a view.

    Raises:
      RaceError: another program has read or written part of it.
    """
    others = np.uint8(0xFF ^ (1 << program))
    for mask, verb in ((tensor.storage.writers, "wrote"), (tensor.storage.readers, "read")):
        if (clash := tensor.marks(mask) & others).any():
            _fail(tensor, program, clash, "writes what", verb)
    tensor.marks(tensor.storage.writers)[...] |= np.uint8(1 << program)


def _fail(tensor: Any, program: int, clash: np.ndarray, does: str, did: str) -> NoReturn:
    place = tuple(int(i) for i in np.argwhere(clash)[0][:-1])
    count = int(clash.any(axis=-1).sum())
    raise RaceError(
        op_name(),
        tensor.storage.label(),
        f"data race: program {program} {does} the other program {did}, {count} elements, the "
        f"first at {place} of the view; write disjoint parts or put nisa.core_barrier between",
    )
