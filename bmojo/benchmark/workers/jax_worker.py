"""Trains the Mamba-2 of mamba2-jax, a step at a time, on request.

Runs in an environment of its own, by itself. Requests and answers are lines of JSON:
``{"do": "make", ...}``, ``{"do": "check"}``, ``{"do": "step"}``.
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
        library.mallopt(-3, 2**30)
        library.mallopt(-1, 2**31 - 1)


class Worker:
    """One model and its optimizer, the step compiled once."""

    def make(self, asked):
        """Make the model; a layer has no MLP beside it, so there are two for one.

        Its inner width is chosen to come near to the wanted number of parameters.
        """
        import jax
        import mamba2_jax
        import numpy as np
        import optax
        from flax import nnx

        self.jax = jax
        width = asked["width"]

        def make(inner):
            config = mamba2_jax.Mamba2Config(
                vocab_size=asked["vocabulary"],
                hidden_size=width,
                state_size=64,
                expand=inner / width,
                head_dim=inner // asked["heads"],
                num_hidden_layers=2 * asked["layers"],
            )
            return mamba2_jax.Mamba2ForCausalLM(config, rngs=nnx.Rngs(0))

        def count(inner):
            shapes = nnx.state(nnx.eval_shape(lambda: make(inner)), nnx.Param)
            sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes)]
            return sum(sizes) - asked["vocabulary"] * width

        unit = asked["heads"]
        low, high = count(32 * unit), count(64 * unit)
        steps = 32 + round((asked["parameters"] - low) / ((high - low) / 32))
        inner = unit * max(1, steps)
        model = make(inner)
        graph, self.parameters, rest = nnx.split(model, nnx.Param, ...)
        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0), optax.adamw(1e-4, b1=0.9, b2=0.95, weight_decay=0.1)
        )
        self.state = jax.jit(optimizer.init)(self.parameters)
        shape = (asked["batch"], asked["length"] + 1)
        tokens = np.random.default_rng(0).integers(0, asked["vocabulary"], shape, np.int32)
        self.vocabulary, self.tokens = asked["vocabulary"], tokens

        def logits(parameters, inputs):
            return nnx.merge(graph, parameters, rest)(inputs)["logits"]

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
        embedding = asked["vocabulary"] * width
        names = ("mamba2-jax", "jax", "flax")
        total = sum(leaf.size for leaf in jax.tree.leaves(self.parameters))
        return {
            "parameters": total - embedding,
            "inner": inner,
            "compile_seconds": seconds,
            "versions": {name: importlib.metadata.version(name) for name in names},
            "whose": "mamba2-jax, JAX",
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
