"""Serves a worker's model: python serve.py jax_worker.

Requests and answers are lines of JSON: ``{"do": "make", "model": ..., ...}``, ``{"do": "check"}``,
``{"do": "step"}``. A worker is a module with a class ``Worker``: ``make(asked)``, ``loss()``,
``logits(tokens)`` as NumPy, ``step(asked)``, and the attributes ``tokens`` and ``vocabulary``.
"""

import ctypes
import importlib
import json
import math
import os
import sys
import traceback


def free_width(count, wanted, unit=1):
    """The multiple of ``unit`` at which ``count(width)``, which is linear, is nearest to wanted."""
    low, high = count(32 * unit), count(64 * unit)
    return unit * max(1, 32 + round((wanted - low) / ((high - low) / 32))) if high > low else None


def check(worker):
    """The first loss, and how much earlier logits change with later tokens."""
    import numpy as np

    loss = worker.loss()
    part = np.array(worker.tokens)[:, : min(64, worker.tokens.shape[1] - 1)]
    half = part.shape[1] // 2
    other = part.copy()
    other[:, half:] = (other[:, half:] + 1) % worker.vocabulary
    one, two = worker.logits(part), worker.logits(other)
    change = np.abs(one - two)
    leak = float(change[:, :half].max() / np.abs(one).max())
    return {"loss": loss, "leak": leak if change[:, half:].max() > 0 else math.nan}


def serve(worker):
    """Answer requests until the input ends. Libraries print to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = (
                check(worker) if asked["do"] == "check" else getattr(worker, asked["do"])(asked)
            )
        except Exception as error:
            traceback.print_exc()
            first = (str(error).splitlines() or [""])[0]
            answer = {"error": f"{type(error).__name__}: {first}"}
        for name in ("loss", "leak"):
            if name in answer and not math.isfinite(answer[name]):
                answer[name] = None
        out.write(json.dumps(answer) + "\n")
        out.flush()


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    if sys.platform.startswith("linux"):  # keep memory that was freed, as bmojo does
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)
        library.mallopt(-1, -1)
    serve(importlib.import_module(sys.argv[1]).Worker())
