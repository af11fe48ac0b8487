"""Full causal attention by kernels that JAX maintains.

On a TPU ``jax.experimental.pallas.ops.tpu.flash_attention``, on a GPU
``jax.experimental.pallas.ops.gpu.attention``. Both mask by the ids of documents, which follow
from ``segment_pos``, and bring their derivatives. Neither knows grouped heads: keys and values
are repeated for the query heads of a group.
"""

import jax.numpy as jnp
from jax.experimental.pallas.ops.gpu import attention as gpu
from jax.experimental.pallas.ops.tpu import flash_attention as tpu

from bmojo.ops.attention_xla import marked
from bmojo.ops.pallas.targets import LANES, Target, here, pad, round_up
from bmojo.types import Array, DType, Float

BLOCK = 128
"""What both kernels want the number of tokens to be a multiple of."""


def unfit(width: int, dtype: DType, target: Target | None = None) -> str | None:
    """Why the kernels cannot run with heads of this width; None: they can."""
    target = here() if target is None else target
    if jnp.dtype(dtype) == jnp.float64:
        return "JAX's kernels of full attention compute in float32, not in float64"
    if target.device == "tpu" and width > LANES and width % LANES:
        return f"JAX's kernel of full attention takes no heads of width {width}"
    if target.device == "gpu" and width > 256:
        return f"heads of width {width} exceed the 256 that the GPU's kernels hold"
    return None


def causal_attention(q, k, v, segment_pos, target: Target | None = None) -> Float[Array, "B L H P"]:
    """:func:`bmojo.ops.memory_attention.causal_attention` of a call that no tokens precede.

    ``target`` is the device (None: JAX's default one). The TPU's kernel is interpreted, forward and
    backward, inside ``jax.experimental.pallas.tpu.force_tpu_interpret_mode`` alone.
    """
    target = here() if target is None else target
    length, width = q.shape[1], q.shape[3]
    k, v = marked(k, v)
    size = round_up(length, BLOCK)
    # From 1 on; the filling behind the last token is document 0.
    document = pad(jnp.cumsum(segment_pos == 0, axis=1, dtype=jnp.int32) + 1, 1, size)
    group = q.shape[2] // k.shape[2]
    q, k, v = (pad(x, 1, size) for x in (q, jnp.repeat(k, group, 2), jnp.repeat(v, group, 2)))
    scale = width**-0.5
    if target.device == "gpu":
        out = gpu.mha(q, k, v, document, scale, True, interpret=target.interpret)
        return out[:, :length]
    ids = tpu.SegmentIds(document, document)
    heads = (jnp.swapaxes(x, 1, 2) for x in (q, k, v))
    out = tpu.flash_attention(*heads, segment_ids=ids, causal=True, sm_scale=scale)
    return jnp.swapaxes(out, 1, 2)[:, :length]
