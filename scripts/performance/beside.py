"""Embedding, head with loss, and optimizer, which stand beside the layers, as benchmark cases."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bmojo.benchmark.cases import Case, compiled
from bmojo.benchmark.models import Candidate
from bmojo.benchmark.operations import GRADIENT
from bmojo.model import LOGITS_AT_ONCE, ModelConfig
from bmojo.ops.cross_entropy import blocked_cross_entropy, cross_entropy
from bmojo.training.config import OptimizerConfig
from bmojo.training.optimizer import make_optimizer
from bmojo.training.parameters import count
from bmojo.types import Array
from scripts.performance.programs import drawn
from scripts.performance.recorder import Recorder, bytes_of, cases_of
from scripts.performance.steps import NORM

BESIDE = "beside the layers"
ADAMW = 19
"""Operations for a parameter: norm and clipping 3, moments 7, their corrections and the quotient
5, decay, rate and sum 4."""
LOSS = 4
"""Operations for a logit, forward: maximum, difference, exponential, sum."""


def beside(chosen: Candidate, batch: int, length: int) -> list[Case]:
    """Embedding, head with loss, and the optimizer of one layer's parameters."""
    config, rng, recorder = chosen.config, np.random.default_rng(0), Recorder()
    tokens = jnp.asarray(chosen.tokens(batch, length + 1))
    table = jnp.asarray(rng.normal(size=(config.vocab_size, config.d_model)), jnp.float32)
    embed = lambda table, tokens: table[tokens]  # noqa: E731
    x = recorder.keep("embedding", 0.0, embed, (table, tokens[:, :-1]))

    def head(scale: Array, table: Array, x: Array, targets: Array) -> Array:
        root = jax.lax.rsqrt(jnp.mean(x * x, axis=-1, keepdims=True) + 1e-6)
        features = x * root * scale * config.d_model**-0.5
        if len(table) > LOGITS_AT_ONCE:
            flat = features.reshape(-1, table.shape[1])
            return blocked_cross_entropy(flat, table, targets.reshape(-1))[0].mean()
        logits = jnp.einsum("bld,vd->blv", features, table)
        return cross_entropy(logits, targets, False)[0].mean()

    flops = float(x.size * (NORM + 1) + batch * length * len(table) * (2 * config.d_model + LOSS))
    operands = jnp.ones((config.d_model,), jnp.float32), table, x, tokens[:, 1:]
    recorder.keep("last norm, head and loss", flops, head, operands)
    return [*cases_of(recorder.steps, BESIDE), _optimizer(config)]


def _optimizer(config: ModelConfig) -> Case:
    """A step of AdamW whose buffers are donated, as in training."""
    structure, parameters = drawn(dataclasses.replace(config, n_layers=1))
    options = OptimizerConfig(learning_rate=1e-4, schedule="constant", warmup=0.0)
    optimizer = make_optimizer(options, 1, structure.groups)
    gradient, flops = jax.tree.map(jnp.ones_like, parameters), float(ADAMW * count(parameters))

    def update(parameters: Any, state: Any, gradient: Any) -> Any:
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state

    held = (parameters, jax.jit(optimizer.init)(parameters))
    facts = {"bytes": 2 * bytes_of(held) + bytes_of(gradient)}
    program = compiled(jax.jit(update, donate_argnums=(0, 1)), *held, gradient)

    def run() -> None:
        nonlocal held
        held = jax.block_until_ready(program.call(*held, gradient))

    temporary, group = program.facts["temporary_bytes"], f"{BESIDE}, {GRADIENT}"
    name = "AdamW, parameters of one layer"
    return Case(name, group, run, flops=flops, temporary_bytes=temporary, facts=facts)
