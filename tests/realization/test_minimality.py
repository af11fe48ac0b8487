"""How many states a map needs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from bmojo.realization import (
    StateSpace,
    controllability,
    diagonal,
    from_poles,
    hankel,
    impulse_response,
    is_minimal,
    markov_parameters,
    minimal_order,
    observability,
    realize,
    reduce,
    shift_register,
)
from tests.numerics import assert_close


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def single(poles, b, c, d=0.3):
    return diagonal(*map(jnp.asarray, (poles, b, c, d)))


def minimal():
    return single([0.9, 0.5, -0.3], [1.0, 2.0, -1.0], [0.5, 1.0, 1.5])


def lost():
    return {
        "unreachable": (single([0.9, 0.5, -0.3], [1.0, 0.0, -1.0], [0.5, 1.0, 1.5]), 2),
        "unseen": (single([0.9, 0.5, -0.3], [1.0, 2.0, -1.0], [0.5, 1.0, 0.0]), 2),
        "the same pole twice": (single([0.9, 0.9, -0.3], [1.0, 2.0, -1.0], [0.5, 1.0, 1.5]), 2),
        "nothing but one pole": (single([0.9, 0.5, 0.9], [1.0, 0.0, -1.0], [0.5, 1.0, 1.5]), 1),
    }


def test_krylov_matrices_are_their_definition():
    rng = np.random.default_rng(0)
    A, B, C = (rng.normal(size=s) for s in ((3, 3), (3, 2), (2, 3)))
    system = StateSpace(*map(jnp.asarray, (A, B, C, np.zeros((2, 2)))))
    assert_close(controllability(system), np.hstack([B, A @ B, A @ A @ B]), "float64")
    assert_close(observability(system), np.vstack([C, C @ A, C @ A @ A]), "float64")
    markov = markov_parameters(system, 5)
    assert_close(hankel(markov), observability(system) @ controllability(system), "float64")
    assert hankel(markov[:4]).shape == (4, 6)
    assert_close(markov[3], C @ A @ A @ A @ B, "float64")


def test_a_minimal_system_is_told():
    assert is_minimal(minimal())
    assert minimal_order(markov_parameters(minimal(), 12)) == 3
    assert is_minimal(shift_register(5, 2))


@pytest.mark.parametrize(
    "kind", ["unreachable", "unseen", "the same pole twice", "nothing but one pole"]
)
def test_lost_states_are_found_and_removed(kind):
    system, order = lost()[kind]
    assert not is_minimal(system)
    assert minimal_order(markov_parameters(system, 12)) == order
    reduced = reduce(system)
    assert reduced.order == order and is_minimal(reduced)
    assert_close(impulse_response(reduced, 30), impulse_response(system, 30), "float64")


def test_a_companion_form_is_always_reachable_and_seen_unless_a_zero_cancels_a_pole():
    poles = jnp.asarray([0.8, 0.4])
    assert is_minimal(from_poles(poles, jnp.asarray([1.0, 0.5])))
    cancelled = from_poles(poles, jnp.asarray([1.0, -0.4]))  # 1 - 0.4 q above and below
    assert np.linalg.matrix_rank(controllability(cancelled)) == 2
    assert not is_minimal(cancelled)
    assert minimal_order(markov_parameters(cancelled, 8)) == 1


@pytest.mark.parametrize("length", [8, 9, 15])
def test_ho_kalman_finds_a_system_from_its_markov_parameters(length):
    rng = np.random.default_rng(1)
    A = rng.normal(size=(4, 4))
    A *= 0.9 / np.abs(np.linalg.eigvals(A)).max()
    B, C, D = (rng.normal(size=s) for s in ((4, 2), (3, 4), (3, 2)))
    system = StateSpace(*map(jnp.asarray, (A, B, C, D)))
    found = realize(markov_parameters(system, length), 4, system.D)
    assert_close(impulse_response(found, 40), impulse_response(system, 40), "float64")
    spectra = (np.sort_complex(np.linalg.eigvals(np.asarray(m.A))) for m in (found, system))
    assert_close(*(s.view(float) for s in spectra), "float64")


def test_too_few_parameters_are_refused():
    with pytest.raises(ValueError, match="order 3 needs 6"):
        realize(markov_parameters(minimal(), 5), 3)
