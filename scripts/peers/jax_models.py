"""The models of ``jax_worker.py``: Mamba-2 of mamba2-jax and Griffin of recurrentgemma."""


class Model:
    """A model with one free width.

    Attributes:
      unit: what the width is a multiple of.
      shapes: width -> shapes of its parameters.
      make: width -> parameters, and a function of parameters and tokens that gives logits.
      package: whose model it is.
    """

    def __init__(self, unit, shapes, make, package):
        self.unit, self.shapes, self.make, self.package = unit, shapes, make, package


def mamba2(asked):
    """Mamba-2: a layer has no MLP beside it, so there are two for one; its inner width is free."""
    import mamba2_jax
    from flax import nnx

    width = asked["width"]

    def model(inner):
        config = mamba2_jax.Mamba2Config(
            vocab_size=asked["vocabulary"],
            hidden_size=width,
            state_size=64,
            expand=inner / width,
            head_dim=inner // asked["heads"],
            num_hidden_layers=2 * asked["layers"],
        )
        return mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))

    def shapes(inner):
        return nnx.state(nnx.eval_shape(lambda: model(inner)), nnx.Param)

    def make(inner):
        graph, parameters, rest = nnx.split(model(inner), nnx.Param, ...)
        return parameters, lambda p, tokens: nnx.merge(graph, p, rest)(tokens)["logits"]

    return Model(asked["heads"], shapes, make, "mamba2-jax")


def griffin(asked):
    """Griffin: an MLP beside every mixer, whose width is free.

    Of three mixers two are recurrences and one is attention, with one head of keys and values,
    to a window. Nothing is computed again in the backward pass.
    """
    import jax
    import jax.numpy as jnp
    from recurrentgemma import common
    from recurrentgemma import jax as recurrentgemma

    recurrent = common.TemporalBlockType.RECURRENT
    kinds = (recurrent, recurrent, common.TemporalBlockType.ATTENTION)

    def model(inner):
        config = common.GriffinConfig(
            vocab_size=asked["vocabulary"],
            width=asked["width"],
            mlp_expanded_width=inner,
            num_heads=asked["heads"],
            block_types=tuple(kinds[i % 3] for i in range(asked["layers"])),
            embeddings_scale_by_sqrt_dim=False,
            attention_window_size=asked["window"] or asked["length"],
            logits_soft_cap=0.0,
        )
        return recurrentgemma.Griffin(config, gradient_checkpointing=False)

    def logits(inner, parameters, tokens):
        places = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return model(inner).apply(parameters, tokens, places, return_cache=False)[0]

    def drawn(inner):
        tokens = jnp.zeros((1, 2), jnp.int32)
        return model(inner).init(jax.random.key(0), tokens, tokens)

    def make(inner):
        parameters = jax.jit(lambda: drawn(inner))()
        return parameters, lambda p, tokens: logits(inner, p, tokens)

    return Model(1, lambda inner: jax.eval_shape(lambda: drawn(inner)), make, "recurrentgemma")


MODELS = {"mamba2": mamba2, "griffin": griffin}
