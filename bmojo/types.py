"""The legend of axis letters, and what every floor above shares.

Axis letters, used in annotations, einsum strings and docstrings alike:

====== =================================== ====== ================================
letter meaning                             letter meaning
====== =================================== ====== ================================
B      batch rows                          H      query heads
L      time: tokens of this call           G      key-value heads (G divides H)
D      model width, ``d_model``            P      width of one head
E      expanded width inside an SSM        K      keys that a query may see, taps
N      SSM state per channel, ``d_state``  W      window, own token included
K      taps of a short convolution,        M      memory slots
       span of the predictor
V      vocabulary                          C      chunks of one window each
R      order of a companion cell
====== =================================== ====== ================================
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, UInt32

__all__ = ["Array", "Bool", "DType", "Float", "Int", "UInt32", "at_least_float32"]

DType = jax.typing.DTypeLike


at_least_float32 = functools.partial(jnp.result_type, jnp.float32)
"""``at_least_float32(*dtypes)``: float32, or wider if one of them is; for states and softmax."""
