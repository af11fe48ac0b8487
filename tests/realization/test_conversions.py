"""Canonical forms, and the conversions between them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from bmojo.realization import (
    characteristic_polynomial,
    companion,
    companion_to_diagonal,
    diagonal,
    diagonal_to_companion,
    from_poles,
    impulse_response,
    shift,
    similar,
    simulate,
)
from tests.numerics import assert_close

POLES = np.array([0.9, -0.4, 0.6 + 0.5j, 0.6 - 0.5j])
REAL = np.array([0.95, 0.7, -0.2])


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def arma(a, c, d, u):
    """z_t = sum_i a_i z_{t-i} + u_t, y_t = sum_j c_j z_{t-j+1} + d u_t, as loops."""
    z = np.zeros(len(u) + len(a))
    y = np.zeros(len(u))
    for t in range(len(u)):
        at = t + len(a)
        z[at] = a @ z[at - len(a) : at][::-1] + u[t]
        y[t] = c @ z[at - len(c) + 1 : at + 1][::-1] + d * u[t]
    return y


def run(system, u):
    return np.asarray(simulate(system, jnp.asarray(u)[:, None])[0][:, 0])


@pytest.mark.parametrize("length", [1, 2, 19])
def test_the_companion_form_is_its_recursion(length):
    rng = np.random.default_rng(0)
    a, c, u = np.array([0.5, -0.3, 0.2]), rng.normal(size=3), rng.normal(size=length)
    system = companion(jnp.asarray(a), jnp.asarray(c), jnp.asarray(0.7))
    assert_close(run(system, u), arma(a, c, 0.7, u), "float64")


def test_a_varying_last_row_is_its_recursion():
    rng = np.random.default_rng(1)
    length, a, c, u = 23, *(rng.normal(size=s) for s in ((23, 2), (23, 2), (23,)))
    a = 0.5 * a
    z, y = np.zeros(length + 2), np.zeros(length)
    for t in range(length):
        z[t + 2] = a[t, 0] * z[t + 1] + a[t, 1] * z[t] + u[t]
        y[t] = c[t, 0] * z[t + 2] + c[t, 1] * z[t + 1]
    assert_close(run(companion(jnp.asarray(a), jnp.asarray(c)), u), y, "float64")


def test_a_last_row_of_zeros_is_the_nilpotent_shift():
    register = companion(jnp.zeros(5)).A
    np.testing.assert_array_equal(register, shift(5))
    assert np.any(np.linalg.matrix_power(register, 4))
    assert not np.any(np.linalg.matrix_power(register, 5))


def test_poles_are_the_eigenvalues_of_their_companion_form():
    a = characteristic_polynomial(jnp.asarray(POLES))
    assert_close(a, -np.poly(POLES).real[1:], "float64")
    found = np.linalg.eigvals(np.asarray(from_poles(jnp.asarray(POLES)).A))
    assert_close(np.sort_complex(found).view(float), np.sort_complex(POLES).view(float), "float64")
    slope = jax.jacobian(lambda r: characteristic_polynomial(r * jnp.array([1j, -1j])))(0.5)
    assert_close(slope, np.array([0.0, -1.0]), "float64")  # a = (0, -r^2)


def test_a_lone_complex_pole_is_refused():
    with pytest.raises(ValueError, match="conjugates"):
        from_poles(jnp.asarray([0.5 + 0.5j, 0.3]))


@pytest.mark.parametrize("poles", [REAL, POLES, np.array([0.8, 0.8, 0.5])])
def test_diagonal_to_companion_keeps_the_map(poles):
    rng = np.random.default_rng(2)
    b, c = rng.normal(size=(2, len(poles)))
    if np.iscomplexobj(poles):
        b = b + 0j
        c = np.array([c[0], c[1], c[2] + 0.3j, c[2] - 0.3j])
        b[3] = b[2]
    system = diagonal(*map(jnp.asarray, (poles, b, c, 0.4)))
    converted = diagonal_to_companion(system)
    assert np.isrealobj(converted.A) and np.isrealobj(converted.C)
    expected = [np.sum(c * poles**k * b).real + 0.4 * (k == 0) for k in range(40)]
    assert_close(impulse_response(converted, 40)[:, 0, 0], np.array(expected), "float64")
    u = rng.normal(size=20)
    assert_close(run(converted, u), np.convolve(u, expected)[:20], "float64")


@pytest.mark.parametrize("poles", [REAL, POLES])
def test_companion_to_diagonal_keeps_the_map(poles):
    c, u = np.array([1.0, -0.5, 0.2, 0.3])[: len(poles)], np.cos(np.arange(20.0) ** 2)
    system = from_poles(jnp.asarray(poles), jnp.asarray(c), jnp.asarray(-0.2))
    converted = companion_to_diagonal(system)
    assert not np.any(converted.A - np.diag(np.diagonal(converted.A)))
    assert_close(
        np.sort_complex(np.diagonal(converted.A)).view(float),
        np.sort_complex(poles + 0j).view(float),
        "float64",
    )
    outputs = run(converted, u)
    a = -np.poly(poles).real[1:]
    assert_close(outputs.real, arma(a, c, -0.2, u), "float64")
    assert np.abs(outputs.imag).max() < 1e-12
    back = diagonal_to_companion(converted)
    assert_close(back, system, "float64")


def test_a_similarity_changes_the_state_and_not_the_map():
    rng = np.random.default_rng(3)
    system, u = from_poles(jnp.asarray(REAL)), rng.normal(size=(20, 1))
    transform = jnp.asarray(rng.normal(size=(3, 3)))
    outputs, states = simulate(system, jnp.asarray(u))
    moved_outputs, moved_states = simulate(similar(system, transform), jnp.asarray(u))
    assert_close(moved_outputs, outputs, "float64")
    assert_close(moved_states, states @ transform.T, "float64")


def test_a_companion_cell_oscillates_and_a_real_diagonal_one_cannot():
    """The impulse response r^t cos(theta t): exact in order 2; far from all real diagonals."""
    r, theta, length = 0.97, 0.8, 64
    wanted = r ** np.arange(length) * np.cos(theta * np.arange(length))
    a = jnp.asarray([2 * r * np.cos(theta), -(r**2)])
    oscillator = companion(a, jnp.asarray([1.0, -r * np.cos(theta)]))
    assert_close(impulse_response(oscillator, length)[:, 0, 0], wanted, "float64")

    powers = np.arange(length)[:, None]

    def misfit(poles):
        """Relative error of the best residues for given real poles."""
        basis = np.asarray(poles) ** powers
        residues = np.linalg.lstsq(basis, wanted, rcond=None)[0]
        return np.linalg.norm(basis @ residues - wanted) / np.linalg.norm(wanted)

    grid = np.linspace(-1, 1, 41)
    pairs = [(misfit((p, q)), p, q) for p in grid for q in grid if p < q]
    best = min(pairs)
    refined = optimize.minimize(misfit, best[1:], method="Nelder-Mead").fun
    assert refined <= best[0]
    assert refined > 0.8
    # The harness can succeed: it finds a response that two real poles do make.
    wanted = 0.9 ** powers[:, 0] - 0.5 * (-0.5) ** powers[:, 0]
    assert min(misfit((p, q)) for p in grid for q in grid if p < q) < 1e-10
