"""The B'MOJO layer token by token, in plain JAX: arXiv 2407.06324 as code.

One document, one row, loops over time, parameters as a dict of arrays by name. The layer, its
kernels and its ports are compared with it. It is slow, differentiable and computes in the dtype
of its operands.
"""

import jax
import jax.numpy as jnp


def bmojo_reference(
    p, u, *, window=64, num_fading=8, num_eidetic=32, n_heads=4, n_kv_heads=None, span=4,
    tokens="ssm", read_fading=True, normalize_innovation=False, refresh="chunk", offset=0,
):  # fmt: skip
    """out_t = y_t + W_o softmax(q_t . K_t) V_t over window, fading and eidetic keys.

    Args:
      p: parameters by name: those of the fading cell after 'fading.', those of the attention
        after 'heads.', such as 'heads.q_proj.kernel'.
      u: inputs (L, D).
      window: W, tokens that a query sees verbatim; also the length of a chunk.
      num_fading: m_f, SSM outputs before the chunk; at most 1 with ``refresh='token'``.
      num_eidetic: m_e, tokens of largest innovation before the chunk.
      n_heads: query heads.
      n_kv_heads: key-value heads; None: as many.
      span: k, outputs that the predictor averages.
      tokens: keys and values are made from u + y ('ssm'), u + conv(u) ('conv') or u ('input').
      read_fading: add y to the output.
      normalize_innovation: divide squared residuals by their running mean, per channel.
      refresh: 'chunk': memory is renewed at chunk edges (section 3.2); 'token': at every token
        (Algorithm 1), where the fading slot holds y_{t-W}.
      offset: tokens of the first chunk that precede the document.

    Returns:
      Outputs (L, D).
    """
    heads = {name.removeprefix("heads."): x for name, x in p.items() if name.startswith("heads.")}
    groups = n_kv_heads or n_heads

    def project(x, name, count):
        return (x @ heads[f"{name}_proj.kernel"]).reshape(len(x), count, -1)

    # 1. Fading memory.
    y = mamba_reference({n.removeprefix("fading."): x for n, x in p.items() if "fading." in n}, u)

    # 2. Contextualised tokens: queries from u, keys and values from u + y.
    bound = {"ssm": lambda: u + y, "input": lambda: u,
             "conv": lambda: u + convolution(u, heads["conv_kernel"])}[tokens]()  # fmt: skip
    q, k, v = project(u, "q", n_heads), project(bound, "k", groups), project(bound, "v", groups)
    own = "fading_" if "fading_k_proj.kernel" in heads else ""
    faded_k, faded_v = project(y, own + "k", groups), project(y, own + "v", groups)

    # 3. Innovation: e_t = mean_d (y_t - (1/k) sum_{i=1..k} y_{t-i})^2, a constant to gradients.
    squares = jax.lax.stop_gradient(y - sum(delayed(y, i) for i in range(1, span + 1)) / span) ** 2
    if normalize_innovation:
        count = jnp.arange(1, len(u) + 1, dtype=u.dtype)[:, None]
        squares = squares / (jnp.cumsum(squares, axis=0) / count)
    innovation = squares.mean(axis=1)

    mixed = []
    for t in range(len(u)):
        # 4. The memory of t: outputs, and tokens of largest innovation, the earlier among equals.
        edge = max(0, t - (t + offset) % window)
        renewed = edge if refresh == "chunk" else t + 1
        eidetic = jnp.argsort(-innovation[:renewed], stable=True)[:num_eidetic]
        last = edge if refresh == "chunk" else max(0, t - window + 1)
        fading = slice(max(0, last - num_fading), last)

        # 5. One softmax over window, fading and eidetic keys.
        seen = slice(max(0, t - window + 1), t + 1)
        keys = jnp.concatenate([k[seen], faded_k[fading], k[eidetic]])
        values = jnp.concatenate([v[seen], faded_v[fading], v[eidetic]])
        keys, values = (jnp.repeat(x, n_heads // groups, axis=1) for x in (keys, values))
        scores = jnp.einsum("hp,shp->hs", q[t], keys) / q.shape[-1] ** 0.5
        mixed.append(jnp.einsum("hs,shp->hp", jax.nn.softmax(scores), values))

    # 6. Output.
    out = jnp.stack(mixed).reshape(u.shape) @ heads["o_proj.kernel"]
    return out + y if read_fading else out


def mamba_reference(p, u):
    """Mamba's block (arXiv 2312.00752, section 3.4) on inputs u (L, D), one token at a time."""
    x, gate = jnp.split(u @ p["in_proj.kernel"], 2, axis=-1)
    x = jax.nn.silu(convolution(x, p["conv.kernel"]) + p["conv.bias"])
    A = -jnp.exp(p["A_log"])
    rank, states = p["dt_proj.kernel"].shape[0], A.shape[1]
    dt, B, C = jnp.split(x @ p["x_proj.kernel"], [rank, rank + states], axis=-1)
    dt = jax.nn.softplus(dt @ p["dt_proj.kernel"] + p["dt_bias"])

    def step(h, now):
        x, dt, B, C = now
        h = jnp.exp(dt[:, None] * A) * h + (dt * x)[:, None] * B
        return h, h @ C

    _, y = jax.lax.scan(step, jnp.zeros_like(A), (x, dt, B, C))
    return ((y + p["D"] * x) * jax.nn.silu(gate)) @ p["out_proj.kernel"]


def convolution(x, kernel):
    """out_t = sum_i kernel_i * x_{t-i}, channel by channel, for x (L, D) and kernel (K, D)."""
    return sum(delayed(x, i) * kernel[i] for i in range(len(kernel)))


def delayed(x, by):
    """x_{t-by}, zero before the first token."""
    return jnp.concatenate([jnp.zeros_like(x[:by]), x])[: len(x)]
