"""RMS normalization."""

from typing import ClassVar

from flax import nnx

from bmojo.types import Array, Float


class RMSNorm(nnx.RMSNorm):
    """That of Flax (arXiv 1910.07467)."""

    undecayed: ClassVar[tuple[str, ...]] = ("scale",)

    def __call__(self, x: Float[Array, "B *rest D"]) -> Float[Array, "B *rest D"]:
        """Divide by the root mean square of the channels and scale."""
        # XLA's CPU compiler does not vectorize sums over the tokens of a batch of one.
        if x.shape[0] == 1:
            return super().__call__(x[0])[None]
        return super().__call__(x)


def check_epsilon(epsilon: float) -> None:
    """Raise ValueError unless a norm can have it."""
    if epsilon <= 0:
        raise ValueError(f"norm_epsilon: must be positive, got {epsilon}")
