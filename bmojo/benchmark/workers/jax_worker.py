"""Trains models of other libraries in JAX, a step at a time, on request.

Runs in an environment of its own, by itself. Requests and answers are lines of JSON:
``{"do": "make", "model": ..., ...}``, ``{"do": "check"}``, ``{"do": "step"}``.
"""

import ctypes
import importlib.metadata
import json
import math
import os
import sys
import time
import traceback


def keep_pages():
    """Keep memory that was freed, as bmojo does."""
    if sys.platform.startswith("linux"):
        library = ctypes.CDLL(None)
        library.mallopt(-4, 0)
        library.mallopt(-1, -1)


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


class Worker:
    """One model and its optimizer, the step compiled once."""

    def make(self, asked):
        """Make the model, its free width chosen to come near to the wanted parameters."""
        import jax
        import numpy as np
        import optax

        self.jax = jax
        model = MODELS[asked["model"]](asked)
        embedding = asked["vocabulary"] * asked["width"]

        def count(inner):
            sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(model.shapes(inner))]
            return sum(sizes) - embedding

        low, high = count(32 * model.unit), count(64 * model.unit)
        steps = 32 + round((asked["parameters"] - low) / ((high - low) / 32))
        inner = model.unit * max(1, steps)
        self.parameters, logits = model.make(inner)
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b1=0.9, b2=0.95, weight_decay=0.1)
        )
        self.state = jax.jit(optimizer.init)(self.parameters)
        shape = (asked["batch"], asked["length"] + 1)
        tokens = np.random.default_rng(0).integers(0, asked["vocabulary"], shape, np.int32)
        self.vocabulary, self.tokens = asked["vocabulary"], tokens

        def loss(parameters, tokens):
            out = logits(parameters, tokens[:, :-1])
            return optax.softmax_cross_entropy_with_integer_labels(out, tokens[:, 1:]).mean()

        def step(parameters, state, tokens):
            value, gradient = jax.value_and_grad(loss)(parameters, tokens)
            updates, state = optimizer.update(gradient, state, parameters)
            return optax.apply_updates(parameters, updates), state, value

        self.logits, self.loss = jax.jit(logits), jax.jit(loss)
        began = time.perf_counter()
        jitted = jax.jit(step, donate_argnums=(0, 1))
        self.program = jitted.lower(self.parameters, self.state, tokens).compile()
        seconds = time.perf_counter() - began
        names = (model.package, "jax", "flax")
        total = sum(leaf.size for leaf in jax.tree.leaves(self.parameters))
        return {
            "parameters": total - embedding,
            "inner": inner,
            "compile_seconds": seconds,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "whose": f"{model.package}, JAX",
        }

    def check(self, asked):
        """The first loss, and how much earlier logits change with later tokens."""
        import numpy as np

        loss = float(self.loss(self.parameters, self.tokens))
        part = self.tokens[:, : min(64, self.tokens.shape[1] - 1)]
        half = part.shape[1] // 2
        other = part.copy()
        other[:, half:] = (other[:, half:] + 1) % self.vocabulary
        one, two = (np.asarray(self.logits(self.parameters, t)) for t in (part, other))
        change = np.abs(one - two)
        leak = float(change[:, :half].max() / np.abs(one).max())
        return {"loss": loss, "leak": leak if change[:, half:].max() > 0 else math.nan}

    def step(self, asked):
        """Forward, backward, clipping, AdamW."""
        began = time.perf_counter()
        self.parameters, self.state, loss = self.program(self.parameters, self.state, self.tokens)
        self.jax.block_until_ready((self.parameters, self.state))
        return {"seconds": time.perf_counter() - began, "loss": float(loss)}


def serve(worker):
    """Answer requests until the input ends. What libraries print goes to standard error."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            answer = getattr(worker, asked["do"])(asked)
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
    keep_pages()
    serve(Worker())
