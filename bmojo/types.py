"""The legend of axis letters, and what every floor above shares.

Axis letters, used in annotations, einsum strings and docstrings alike:

====== =================================== ====== ================================
letter meaning                             letter meaning
====== =================================== ====== ================================
B      batch rows                          H      query heads
L      time: tokens of this call           G      key-value heads (G divides H)
D      model width, ``d_model``            P      width of one head
E      expanded width inside an SSM        S      keys that a query may look at
N      SSM state per channel, ``d_state``  W      window, own token included
K      taps of a short convolution,        M      memory slots
       span of the predictor
V      vocabulary                          C      chunks of one window each
R      order of a companion cell
====== =================================== ====== ================================
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

__all__ = ["Array", "Bool", "DType", "Float", "Int", "at_least_float32"]

DType = jax.typing.DTypeLike


def at_least_float32(*dtypes: DType) -> jnp.dtype:
    """The dtype of states, softmax and innovation: float32, or wider if an operand is wider."""
    return jnp.result_type(jnp.float32, *dtypes)
