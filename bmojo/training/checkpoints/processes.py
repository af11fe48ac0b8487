"""What several processes of one run must do together; with one process, nothing."""

import json
from typing import Any

import jax
import numpy as np


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def meet(name: str) -> None:
    """Wait until all processes are here."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def of_first(value: Any) -> Any:
    """The first process's value, a JSON value, on all of them."""
    if jax.process_count() == 1:
        return value
    from jax.experimental import multihost_utils

    data = np.frombuffer(json.dumps(value).encode(), np.uint8)
    count = int(multihost_utils.broadcast_one_to_all(np.int32(len(data))))
    mine = data if is_first() else np.zeros(count, np.uint8)
    return json.loads(np.asarray(multihost_utils.broadcast_one_to_all(mine), np.uint8).tobytes())


def of_any(reason: str | None) -> str | None:
    """A reason that some process has, the first process's if several do; None if none has."""
    if jax.process_count() == 1:
        return reason
    from jax.experimental import multihost_utils

    data = np.zeros(256, np.uint8)
    said = (reason or "").encode()[:256]
    data[: len(said)] = np.frombuffer(said, np.uint8)
    for row in np.asarray(multihost_utils.process_allgather(data), np.uint8):
        if row.any():
            return row.tobytes().rstrip(b"\0").decode(errors="ignore")
    return None
