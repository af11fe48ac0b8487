"""Models of other libraries, in JAX, for ``serve.py``."""

import importlib.metadata
import math
import time


class Worker:
    """One model and its optimizer, the step compiled once."""

    def make(self, asked):
        """Make the model, its free width chosen to come near to the wanted parameters."""
        import jax
        import numpy as np
        import optax
        from jax_models import MODELS
        from serve import free_width

        self.jax = jax
        model = MODELS[asked["model"]](asked)
        embedding = asked["vocabulary"] * asked["width"]

        def count(inner):
            sizes = [math.prod(leaf.shape) for leaf in jax.tree.leaves(model.shapes(inner))]
            return sum(sizes) - embedding

        inner = free_width(count, asked["parameters"], model.unit)
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

        self._logits, self._loss = jax.jit(logits), jax.jit(loss)
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

    def logits(self, tokens):
        """Logits of tokens, as NumPy."""
        return self.jax.device_get(self._logits(self.parameters, tokens))

    def loss(self):
        """Mean cross-entropy of the batch."""
        return float(self._loss(self.parameters, self.tokens))

    def step(self, asked):
        """Forward, backward, clipping, AdamW."""
        began = time.perf_counter()
        self.parameters, self.state, loss = self.program(self.parameters, self.state, self.tokens)
        self.jax.block_until_ready((self.parameters, self.state))
        return {"seconds": time.perf_counter() - began, "loss": float(loss)}
