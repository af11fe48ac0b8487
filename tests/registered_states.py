"""States of all mixers, registered by JAX's own function, through its transformations.

Run by ``tests/test_registered_states.py`` in a process without ``tests/conftest.py``.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import bmojo

LENGTH = 7


def main() -> None:
    """Read tokens at once, one by one in a scan, and from a rebuilt state."""
    assert jax.tree_util.register_dataclass.__module__.startswith("jax.")
    pattern = (
        bmojo.BMojoConfig(window=3, num_fading=1, num_eidetic=2, n_heads=2),
        bmojo.SelectiveSSMConfig(),
        bmojo.SSDConfig(n_heads=2),
        bmojo.CanonicalSSMConfig(),
        bmojo.AttentionConfig(n_heads=2),
        bmojo.MLPConfig(),
    )
    config = bmojo.ModelConfig(vocab_size=11, d_model=8, n_layers=3, pattern=pattern)
    graph, parameters = nnx.split(config.make(nnx.Rngs(0)))
    model = nnx.merge(graph, parameters)
    tokens = jnp.arange(LENGTH)[None] * 3 % 11
    whole = jax.jit(lambda tokens: model(tokens)[0])(tokens)

    def read(state, token):
        logits, state = model(token[:, None], state)
        return state, logits[:, 0]

    empty = model.init_state(1, LENGTH)
    state, logits = jax.jit(lambda s: jax.lax.scan(read, s, tokens.T))(empty)
    np.testing.assert_allclose(logits[:, 0], whole[0], rtol=1e-4, atol=1e-5)

    shapes = jax.eval_shape(lambda: empty)
    assert jax.tree.structure(shapes) == jax.tree.structure(state)
    named = jax.tree_util.tree_leaves_with_path(state)
    assert all(isinstance(path[-1], jax.tree_util.GetAttrKey) for path, _ in named)
    leaves, tree = jax.tree.flatten(jax.tree.map(jnp.copy, state))
    again = jax.tree.unflatten(tree, leaves)
    ahead = jax.jit(lambda s: read(s, tokens[:, 0])[1])
    np.testing.assert_array_equal(ahead(again), ahead(state))
    rows = jax.tree.map(lambda x: jnp.stack([x, x]), state)
    both = jax.vmap(lambda s: read(s, tokens[:, 0])[1])(rows)
    np.testing.assert_allclose(both[0], ahead(state), rtol=1e-4, atol=1e-5)
    print("ok", len(leaves), "leaves")


if __name__ == "__main__":
    main()
