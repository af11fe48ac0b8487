import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.training.config import OptimizerConfig, TrainerConfig
from bmojo.training.optimizer import (
    decays,
    group,
    make_optimizer,
    schedule,
)
from bmojo.training.parameters import flatten, unflatten

MIXER = "blocks.sublayers.0.mixer"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (f"{MIXER}.in_proj.kernel", "ssm"),
        (f"{MIXER}.fading.x_proj.kernel", "ssm"),
        (f"{MIXER}.fading.dt_proj.kernel", "ssm"),
        (f"{MIXER}.fading.poles", "ssm"),
        (f"{MIXER}.out_proj.kernel", "ssm"),
        (f"{MIXER}.A_log", "ssm"),
        (f"{MIXER}.D", "ssm"),
        (f"{MIXER}.dt_bias", "ssm"),
        (f"{MIXER}.conv.kernel", "ssm"),
        (f"{MIXER}.conv.bias", "ssm"),
        (f"{MIXER}.heads.q_proj.kernel", "attention"),
        (f"{MIXER}.heads.o_proj.kernel", "attention"),
        (f"{MIXER}.fading_k_proj.kernel", "attention"),
        (f"{MIXER}.up_proj.kernel", "other"),
        (f"{MIXER}.down_proj.kernel", "other"),
        ("blocks.sublayers.0.norm.scale", "other"),
        ("embedding.embedding", "other"),
        ("head.kernel", "other"),
    ],
)
def test_groups_go_by_names(name, expected):
    assert group(name) == expected


def test_decay_spares_norms_biases_and_what_drives_the_state():
    for last in ("norm.scale", "conv.bias", "A_log", "D", "dt_bias", "theta", "skip_bias"):
        assert not decays(f"{MIXER}.{last}"), last
    for last in ("in_proj.kernel", "conv.kernel", "dt_proj.kernel", "heads.q_proj.kernel"):
        assert decays(f"{MIXER}.{last}"), last
    assert not decays("embedding.embedding")
    assert decays("embedding.embedding", embeddings=True)


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
    config = OptimizerConfig(learning_rate=1.0, warmup=0.0, final_learning_rate=0.0, schedule=name)
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
    optimizer = make_optimizer(config, 10, rates)
    parameters = jax.tree.map(jnp.asarray, start)
    state = optimizer.init(parameters)
    for gradient in gradients:
        updates, state = optimizer.update(gradient, state, parameters)
        parameters = {name: parameters[name] + updates[name] for name in rates}
    expected = numpy_adamw(start, gradients, config, rates, decayed)
    for name in rates:
        np.testing.assert_allclose(parameters[name], expected[name], rtol=2e-5, atol=1e-6)


def test_optimizer_state_survives_flattening():
    optimizer = make_optimizer(OptimizerConfig(), 10, ("a.kernel", "norm.scale"))
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
        (lambda: OptimizerConfig(warmup=float("nan")), ValueError, "warmup"),
        (lambda: OptimizerConfig(schedule="cos"), ValueError, "'cosine'"),
        (lambda: OptimizerConfig(decay_embeddings=1), TypeError, "decay_embeddings"),
        (lambda: TrainerConfig(log_every=0), ValueError, "Trainer.log_every: 0 .*at least 1"),
        (lambda: TrainerConfig(keep=2.0), TypeError, "Trainer.keep: 2.0"),
        (lambda: TrainerConfig(seed=-1), ValueError, "Trainer.seed"),
    ],
)
def test_config_errors_name_field_and_remedy(make, error, words):
    with pytest.raises(error, match=words):
        make()
