"""What the machine can do at most, measured in the same rounds as the rest."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from bmojo.benchmark.cases import Case, Check, difference, limit
from bmojo.benchmark.program import compiled
from bmojo.types import Array

__all__ = ["GROUP", "calibration", "checks"]

GROUP = "calibration"
SQUARE = 2048
"""Rows of the large square matrices."""
COPIED = 2**25
"""Numbers that are copied: 128 MiB, more than fits into caches."""
EXPONENTIALS = 2**20


def calibration(length: int, width: int) -> list[Case]:
    """Products of float32 matrices, copying and exponentials, each with its work in ``facts``.

    ``facts`` has ``work`` (operations, bytes read and written, or exponentials of a call) and
    ``rate``, what a billion of them a second is called.

    Args:
      length: rows of the left matrix of the first products.
      width: the other dimensions of those.
    """
    shapes = [(length, width, width), (length, width, 4 * width), (SQUARE, SQUARE, SQUARE)]
    cases = []
    for m, k, n in dict.fromkeys(shapes):
        x, y = jnp.ones((m, k), jnp.float32), jnp.ones((k, n), jnp.float32)
        name = f"GEMM {m} x {k} x {n}"
        cases.append(_case(name, jnp.matmul, (x, y), 2.0 * m * k * n, "GFLOP/s"))
    values = jnp.zeros((COPIED,), jnp.float32)
    cases.append(_case("copy (x + 1)", lambda x: x + 1, (values,), 8.0 * COPIED, "GB/s"))
    some = jnp.linspace(-1.0, 1.0, EXPONENTIALS)
    cases.append(_case("exp", jnp.exp, (some,), float(EXPONENTIALS), "Gexp/s"))
    return cases


def checks() -> list[Check]:
    """The same operations on small arrays, against NumPy in float64."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(33, 65)).astype("f4"), rng.normal(size=(65, 17)).astype("f4")
    wide = x.astype("f8")
    pairs = (
        ("GEMM", jnp.matmul(x, y), wide @ y.astype("f8")),
        ("copy (x + 1)", jnp.asarray(x) + 1, wide + 1),
        ("exp", jnp.exp(x), np.exp(wide)),
    )
    allowed = limit("float32")
    return [Check(name, "result and NumPy's", difference(*pair), allowed) for name, *pair in pairs]


def _case(name: str, function, arguments: Sequence[Array], work: float, rate: str) -> Case:
    program = compiled(function, *arguments)

    def run() -> None:
        jax.block_until_ready(program.call(*arguments))

    return Case(
        name,
        GROUP,
        run,
        flops=work if rate == "GFLOP/s" else None,
        facts={"work": work, "rate": rate},
        **program.facts(),
    )
