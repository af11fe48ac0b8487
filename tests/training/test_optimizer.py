import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from bmojo.layers.attention import AttentionConfig
from bmojo.layers.bmojo import BMojoConfig
from bmojo.layers.bmojo_sliding import SlidingBMojoConfig
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.layers.mlp import MLPConfig
from bmojo.layers.norm import RMSNorm
from bmojo.layers.protocol import Group, parameter_groups
from bmojo.layers.selective_ssm import SelectiveSSMConfig
from bmojo.layers.ssd import SSDConfig
from bmojo.model import ModelConfig
from bmojo.training.config import OptimizerConfig, TrainerConfig
from bmojo.training.optimizer import make_optimizer, schedule
from bmojo.training.parameters import flatten, unflatten

ATTENTION = re.compile(r"(.*_)?[qkvo]_proj")
SSM = re.compile(r"in_proj|x_proj|dt_proj|out_proj|A_log|D|dt_bias|conv.*|theta|fading")
UNDECAYED = ("scale", "bias", "A_log", "D", "dt_bias", "theta")


def by_name(name):
    """The group that a parameter of our own modules has, told by its name."""
    parts = name.split(".")
    rate = "ssm" if any(SSM.fullmatch(part) for part in parts) else "other"
    if any(ATTENTION.fullmatch(part) for part in parts):
        rate = "attention"
    decay = "never" if parts[-1] in UNDECAYED else "always"
    return Group(rate, "embedding" if parts[-1] == "embedding" else decay)


def groups_of(names):
    return {name: by_name(name) for name in names}


CELLS = (SelectiveSSMConfig(), SSDConfig(), CanonicalSSMConfig(order=3))


@pytest.mark.parametrize(
    "pattern",
    [
        *((cell, cell) for cell in CELLS),
        *((BMojoConfig(window=8, n_heads=2, fading=cell), MLPConfig()) for cell in CELLS),
        (BMojoConfig(window=8, n_heads=2, tokens="conv", tie_projections=False), MLPConfig()),
        (SlidingBMojoConfig(window=8, n_heads=2, tie_projections=False), MLPConfig()),
        (AttentionConfig(n_heads=2), MLPConfig()),
    ],
)
def test_modules_declare_the_groups_of_their_parameters(pattern):
    config = ModelConfig(16, 16, 1, pattern, tie_embeddings=False)
    model = nnx.eval_shape(lambda: config.make(nnx.Rngs(0)))
    found = parameter_groups(model)
    assert found == groups_of(found)
    assert len(found) == len(jax.tree.leaves(nnx.state(model, nnx.Param)))


class Stranger(nnx.Module):
    """A module whose parameters have names that ours have too."""

    undecayed = ("gain",)

    def __init__(self):
        self.out_proj = nnx.Linear(2, 2, rngs=nnx.Rngs(0))
        self.gain = nnx.Param(jnp.ones(2))
        self.norm = RMSNorm(2, rngs=nnx.Rngs(0))


def test_the_name_of_a_strangers_parameter_means_nothing():
    assert parameter_groups(Stranger()) == {
        "gain": Group("other", "never"),
        "norm.scale": Group("other", "never"),
        "out_proj.bias": Group("other", "always"),
        "out_proj.kernel": Group("other", "always"),
    }


@pytest.mark.parametrize("asked", [True, False])
def test_embeddings_decay_if_that_is_asked_for(asked):
    config = OptimizerConfig(decay_embeddings=asked, warmup=0.0, schedule="constant")
    names = ("embedding.embedding", "norm.scale", "in_proj.kernel")
    parameters = {name: jnp.ones(3) for name in names}
    optimizer = make_optimizer(config, 10, groups_of(names))
    updates, _ = optimizer.update(
        {name: jnp.zeros(3) for name in names}, optimizer.init(parameters), parameters
    )
    moved = {name: bool(jnp.any(update != 0)) for name, update in updates.items()}
    expected = {"embedding.embedding": asked, "norm.scale": False, "in_proj.kernel": True}
    assert moved == expected


def test_the_schedule_warms_up_then_falls_to_its_end():
    config = OptimizerConfig(learning_rate=1e-2, warmup=0.1, final_learning_rate=1e-4)
    rate = schedule(config, 100)
    assert float(rate(0)) == 0
    assert np.isclose(float(rate(5)), 5e-3)
    assert np.isclose(float(rate(10)), 1e-2)
    assert np.isclose(float(rate(55)), (1e-2 + 1e-4) / 2)
    assert np.isclose(float(rate(100)), 1e-4)
    rates = [float(rate(step)) for step in range(10, 101)]
    assert rates == sorted(rates, reverse=True)


def test_groups_have_their_own_peaks_and_one_end():
    config = OptimizerConfig(
        learning_rate=1e-2, ssm_learning_rate=1e-3, attention_learning_rate=1e-6, warmup=0.0
    )
    firsts = [float(schedule(config, 10, name)(0)) for name in ("other", "ssm", "attention")]
    lasts = [float(schedule(config, 10, name)(10)) for name in ("other", "ssm", "attention")]
    assert np.allclose(firsts, [1e-2, 1e-3, 1e-6])
    assert np.allclose(lasts, [1e-5, 1e-5, 1e-6])


@pytest.mark.parametrize("name", ["linear", "constant"])
def test_other_schedules(name):
    end = {"final_learning_rate": 0.0} if name == "linear" else {}
    config = OptimizerConfig(learning_rate=1.0, warmup=0.0, schedule=name, **end)
    assert np.isclose(float(schedule(config, 10)(5)), 0.5 if name == "linear" else 1.0)


def numpy_adamw(values, gradients, config, rates, decayed):
    """AdamW after global clipping, written from its equations."""
    values = {k: np.array(v, np.float64) for k, v in values.items()}
    m, v = ({k: np.zeros_like(x) for k, x in values.items()} for _ in range(2))
    for t, gradient in enumerate(gradients, start=1):
        norm = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in gradient.values()))
        for k, g in gradient.items():
            g = g * min(1, config.clip / norm)
            m[k] = config.b1 * m[k] + (1 - config.b1) * g
            v[k] = config.b2 * v[k] + (1 - config.b2) * g**2
            update = m[k] / (1 - config.b1**t) / (np.sqrt(v[k] / (1 - config.b2**t)) + 1e-8)
            if decayed[k]:
                update = update + config.weight_decay * values[k]
            values[k] = values[k] - rates[k] * update
    return values


def test_updates_are_those_of_adamw_with_clipping_groups_and_decay():
    config = OptimizerConfig(
        learning_rate=0.1,
        ssm_learning_rate=0.03,
        attention_learning_rate=0.01,
        warmup=0.0,
        schedule="constant",
        clip=0.5,
    )
    rates = {
        "norm.scale": 0.1,
        "up_proj.kernel": 0.1,
        "A_log": 0.03,
        "in_proj.kernel": 0.03,
        "q_proj.kernel": 0.01,
    }
    decayed = {name: name.endswith("kernel") for name in rates}
    rng = np.random.default_rng(0)
    draw = lambda: {name: rng.normal(size=(3, 2)).astype(np.float32) for name in rates}  # noqa: E731
    start, gradients = draw(), [draw() for _ in range(4)]
    optimizer = make_optimizer(config, 10, groups_of(rates))
    parameters = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(parameters)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = {name: parameters[name] + updates[name] for name in rates}
    expected = numpy_adamw(start, gradients, config, rates, decayed)
    for name in rates:
        np.testing.assert_allclose(parameters[name], expected[name], rtol=2e-5, atol=1e-6)


def test_optimizer_state_survives_flattening():
    optimizer = make_optimizer(OptimizerConfig(), 10, groups_of(["a.kernel", "norm.scale"]))
    state = optimizer.init({"a.kernel": jnp.ones((2, 3)), "norm.scale": jnp.ones(3)})
    flat = flatten(state)
    assert len(flat) == len(jax.tree.leaves(state))
    changed = {name: leaf + 1 for name, leaf in flat.items()}
    back = unflatten(state, changed)
    assert jax.tree.structure(back) == jax.tree.structure(state)
    for before, after in zip(jax.tree.leaves(state), jax.tree.leaves(back), strict=True):
        np.testing.assert_array_equal(before + 1, after)


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (
            lambda: OptimizerConfig(learning_rate=0),
            ValueError,
            "Optimizer.learning_rate: 0 .*above",
        ),
        (lambda: OptimizerConfig(learning_rate="1e-3"), TypeError, "'1e-3' is not a number"),
        (lambda: OptimizerConfig(b2=1.0), ValueError, "b2: 1.0 .*below 1"),
        (lambda: OptimizerConfig(warmup=float("nan")), TypeError, "warmup"),
        (lambda: OptimizerConfig(schedule="cos"), TypeError, "did you mean 'cosine'"),
        (lambda: OptimizerConfig(decay_embeddings=1), TypeError, "decay_embeddings"),
        (
            lambda: OptimizerConfig(schedule="constant", final_learning_rate=1e-4),
            ValueError,
            "final_learning_rate: 0.0001 has no effect with Optimizer.schedule = 'constant'; leave",
        ),
        (
            lambda: OptimizerConfig(decay_embeddings=True, weight_decay=0),
            ValueError,
            "decay_embeddings: True has no effect with Optimizer.weight_decay = 0; leave",
        ),
        (lambda: TrainerConfig(log_every=0), ValueError, "Trainer.log_every: 0 .*at least 1"),
        (lambda: TrainerConfig(keep=2.0), TypeError, "Trainer.keep: 2.0"),
        (lambda: TrainerConfig(seed=-1), ValueError, "Trainer.seed"),
    ],
)
def test_config_errors_name_field_and_remedy(make, error, words):
    with pytest.raises(error, match=words):
        make()
