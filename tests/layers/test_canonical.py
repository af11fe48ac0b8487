"""The mixer around a companion recurrence."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo import testing as law
from bmojo.layers import canonical
from bmojo.layers.canonical import CanonicalSSMConfig
from bmojo.ops.companion import companion_scan
from tests.numerics import assert_close, relative_rms

CASES = {
    "order-2": CanonicalSSMConfig(),
    "order-3": CanonicalSSMConfig(order=3, d_inner=10, implementation="associative"),
    "order-4": CanonicalSSMConfig(order=4, d_conv=3, d_inner=10),
}
every_order = pytest.mark.parametrize("order", [2, 3, 4])
# Compiling dominates, so each law is held against some of the cases in some of the dtypes.
in_float64 = pytest.mark.parametrize("dtype", ["float64"], indirect=True)


@pytest.mark.parametrize(
    "case, dtype", [("order-4", "float32"), ("order-3", "float64")], indirect=["dtype"]
)
@pytest.mark.one_in(3)
def test_parallel_is_recurrent_is_segments(case, dtype):
    law.check_forms(CASES[case], dtype, length=17, cuts=(5, 6))


@in_float64
@pytest.mark.parametrize("case", ["order-2", pytest.param("order-3", marks=pytest.mark.slow)])
@pytest.mark.one_in(3)
def test_gradients_of_all_forms_agree(case, dtype):
    law.check_gradients(CASES[case], dtype, length=13, cuts=(5,))


@in_float64
@pytest.mark.parametrize("case", ["order-2", pytest.param("order-4", marks=pytest.mark.slow)])
def test_ragged_rows_are_rows_alone(case, dtype):
    law.check_ragged(CASES[case], dtype, length=12)


@in_float64
@pytest.mark.parametrize("case", ["order-3", "order-4"])
def test_a_packed_document_is_the_document_alone(case, dtype):
    law.check_packed(CASES[case], dtype, grid=3)


@pytest.mark.slow
def test_neither_future_nor_other_documents_leak():
    law.check_isolation(CASES["order-3"], jnp.dtype("float32"), length=20)


def poles(theta, radius, order):
    """The poles, as numbers."""
    pairs = radius * np.exp(1j * np.asarray(theta))
    real = [radius] if order % 2 else []
    return np.concatenate([pairs, pairs.conj(), real])


@every_order
def test_constant_radii_give_the_characteristic_polynomial(order):
    theta, radius = np.array([[0.4, 1.9][: order // 2]]), 0.93
    unit = canonical.unit_coefficients(jnp.asarray(theta, "float32"), order)
    history = jnp.full((1, order + 3, 1), radius)
    a = canonical.varying_coefficients(unit, history, history[:, : order - 1])
    expected = -np.poly(poles(theta[0], radius, order)).real[1:]
    assert_close(a[0, 0, 0], expected, "float32")


@every_order
@pytest.mark.parametrize("radius", [0.2, 0.9, 0.999])
def test_the_gain_is_one_at_the_strongest_resonance(order, radius):
    theta = np.array([[0.7, 2.0][: order // 2]])
    exponent = jnp.full((1, 1, 1), np.log(radius), jnp.float32)
    gain = float(canonical.peak_gain(jnp.asarray(theta, "float32"), order, exponent)[0, 0, 0])
    angles = np.concatenate([theta[0], [0.0] if order % 2 else []])
    distances = np.exp(1j * angles)[:, None] - poles(theta[0], radius, order)
    response = 1 / np.prod(np.abs(distances), axis=1)
    assert gain * response.max() == pytest.approx(1, rel=1e-4)


@every_order
@pytest.mark.one_in(2)
def test_any_sequence_of_radii_is_stable(order):
    """z_t = (r_1 ... r_t) w_t with w of constant coefficients, however the radii jump."""
    rng = np.random.default_rng(0)
    length, theta = 400, np.array([[0.5, 2.1][: order // 2]])
    radius = np.exp(-0.3 * rng.random((1, length, 1)) ** 8)
    unit = canonical.unit_coefficients(jnp.asarray(theta, "float32"), order)
    past = jnp.ones((1, order - 1, 1))
    a = canonical.varying_coefficients(unit, jnp.asarray(radius, "float32"), past)
    fixed = jnp.broadcast_to(unit, a.shape)
    impulse = jnp.zeros((1, length, 1)).at[0, 0].set(1.0)
    state = jnp.zeros((1, 1, order))
    z = companion_scan(impulse, a, state)[0][0, :, 0, -1]
    w = companion_scan(impulse, fixed, state)[0][0, :, 0, -1]
    scale = np.cumprod(radius[0, :, 0])
    assert_close(z, w * scale / radius[0, 0, 0], "float32")
    assert np.abs(w).max() < 12
    # Poles of the same radii whose angles vary instead are inside the circle at every token,
    # and yet the recurrence grows without bound.
    jumping = 0.98 * np.exp(1j * np.where(np.arange(length) % 2, 0.2, 2.9))
    free = jnp.asarray(np.stack([2 * jumping.real, -(np.abs(jumping) ** 2)], -1), "float32")
    z = companion_scan(impulse, free[None, :, None], jnp.zeros((1, 1, 2)))[0]
    assert not np.abs(z[0, 200, 0, -1]) < 1e6


@pytest.mark.slow
def test_initial_outputs_and_gradients_are_finite_over_long_inputs():
    mixer = law.make(CanonicalSSMConfig(order=4), "float32")
    out, state = law.run(mixer, 30 * law.draw("float32", 1, 3000), None)
    assert np.isfinite(out).all() and np.isfinite(state.cell).all()
    theta = jnp.zeros((1, 2))
    for exponent in (-1e-30, -1e-8, -80.0):
        value, slopes = jax.value_and_grad(
            lambda *v: canonical.peak_gain(v[0], 4, v[1]).sum(), argnums=(0, 1)
        )(theta, jnp.full((1, 1, 1), exponent))
        assert np.isfinite([value, *(np.abs(s).max() for s in slopes)]).all()


def test_bfloat16_keeps_the_recurrence_in_float32():
    config = CanonicalSSMConfig(order=3)
    mixer = law.make(config, "float32")
    half = config.make(12, rngs=law.nnx.Rngs(0), dtype="bfloat16", param_dtype="float32")
    u = law.draw("float32", 2, 40)
    out, state = law.run(half, u.astype("bfloat16"), None)
    assert out.dtype == jnp.bfloat16 and state.tail.dtype == jnp.bfloat16
    assert state.cell.dtype == state.radius.dtype == jnp.float32
    assert np.any(state.radius != state.radius.astype(jnp.bfloat16)), "radii were rounded"
    expected, _ = law.run(mixer, u, None)
    assert relative_rms(out, expected) < 3e-2  # one rounding of 4e-3 in each of four projections


@pytest.mark.parametrize(
    "wrong",
    [{"order": 5}, {"order": 1}, {"d_conv": 0}, {"d_inner": 0}, {"dt_min": 0.0}],
)
def test_wrong_fields_are_named(wrong):
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}:"):
        CanonicalSSMConfig(**wrong)
