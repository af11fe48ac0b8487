"""Poison, dtypes and rounding, capacity."""

import ml_dtypes
import numpy as np
import pytest

from neuron.emulator import CapacityError, RuleError, dtypes, jit, simulate
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import put, run, tile


def test_fresh_memory_is_poisoned():
    def body():
        copies = []
        for dtype in (nl.float32, nl.bfloat16, nl.float8_e5m2, nl.int32, nl.uint8):
            copies.append(tile((1, 2), dtype))
        return tuple(copies)

    *floats, int32, uint8 = run(body)
    assert all(np.isnan(x.astype(np.float32)).all() for x in floats)
    assert (int32 == 4).all() and (uint8 == 4).all()


def test_poison_spreads():
    def body(x):
        fresh = tile((1, 4))
        total = tile((1, 4))
        nisa.tensor_tensor(dst=total, data1=x, data2=fresh, op=nl.add)
        return total

    assert np.isnan(run(body, np.ones((1, 4), np.float32))).all()


@pytest.mark.parametrize(
    ("dtype", "values", "expected"),
    [
        ("bfloat16", [1.00390625, 1.01171875, -3.4028235e38], [1.0, 1.015625, -np.inf]),
        ("int32", [0.5, 1.5, 2.5, -0.5, 3e9, -3e9], [0, 2, 2, 0, 2**31 - 1, -(2**31)]),
        ("uint8", [254.5, 255.5, 300.0, -7.0], [254, 255, 255, 0]),
        ("float8_e4m3", [17.0, 19.0], [16.0, 20.0]),
        ("tfloat32", [1.0 + 2**-11, 1.0 + 3 * 2**-11], [1.0, 1.0 + 2**-9]),
    ],
)
def test_writes_round_to_even_and_saturate(dtype, values, expected):
    def body(x):
        result = tile((1, len(values)), dtype)
        nisa.tensor_copy(dst=result, src=x)
        return result

    result = run(body, np.array([values], np.float32)).astype(np.float64)
    np.testing.assert_array_equal(result, [expected])


def test_equal_integer_dtypes_copy_bit_for_bit():
    big = np.array([[2**30 + 1, -(2**31)]], np.int32)
    exact = run(lambda x: x, big)
    np.testing.assert_array_equal(exact, big)


def test_dma_conversion_goes_through_float32():
    def body(x):
        result = tile((1, 1), nl.uint32)
        nisa.dma_copy(dst=result, src=x)
        return result

    assert run(body, np.array([[2**24 + 1]], np.int32)).item() == 2**24


def test_results_keep_their_dtype():
    half = np.array([[1.5, 2.5]], ml_dtypes.bfloat16)
    assert run(lambda x: x, half).dtype == ml_dtypes.bfloat16


def test_names_of_dtypes():
    assert dtypes.name_of(np.float32) == dtypes.name_of("float32") == "float32"
    assert dtypes.name_of(ml_dtypes.bfloat16) == "bfloat16"
    with pytest.raises(ValueError, match="float64.*is none of"):
        dtypes.name_of(np.float64)


def test_capacity_counts_what_is_alive():
    @jit
    def hoards():
        return [nl.ndarray((128, 16 * 1024), nl.float32) for _ in range(4)]

    with pytest.raises(CapacityError, match="65536 bytes a partition beside 196608 .* 212984"):
        simulate(hoards)()

    @jit
    def lets_go():
        for _ in range(10):
            t = nl.ndarray((128, 16 * 1024), nl.float32)
            nisa.memset(dst=t, value=0.0)

    run_it = simulate(lets_go)
    run_it()
    assert run_it.reports[0].sbuf_high_water == 2 * 65536


def test_small_tiles_share_columns():
    @jit
    def many():
        return_tiles = [nl.ndarray((32, 40_000), nl.float32) for _ in range(4)]
        del return_tiles

    run_it = simulate(many)
    run_it()
    assert run_it.reports[0].sbuf_high_water == 160_000


def test_psum_holds_eight_banks():
    @jit
    def nine():
        return [nl.ndarray((128, 512), nl.float32, buffer=nl.psum) for _ in range(9)]

    with pytest.raises(CapacityError, match="16384 bytes of PSUM"):
        simulate(nine)()


def test_target_sets_the_limit():
    @jit
    def large():
        nl.ndarray((128, 50_000), nl.float32)

    simulate(large, target="trn2")()
    with pytest.raises(CapacityError, match="180224"):
        simulate(large, target="trn1")()


def test_tile_size_follows_the_target():
    seen = []

    @jit
    def look():
        seen.append((nl.tile_size.pmax, nl.tile_size.sbuf_fmax_bytes, nl.tile_size.psum_bank_fmax))

    simulate(look, target="trn3")()
    assert seen == [(128, 245_752, 512)]


def test_constants():
    def body():
        return (
            nl.full((2, 3), 2.5, nl.float32),
            nl.ones((2, 3), nl.int32),
            nl.zeros((1, 2), nl.bfloat16),
        )

    full, ones, zeros = run(body)
    assert (full == 2.5).all() and (ones == 1).all() and (zeros == 0).all()
    np.testing.assert_array_equal(run(lambda: nl.shared_identity_matrix(3, nl.float32)), np.eye(3))


def test_instructions_need_a_kernel():
    with pytest.raises(RuleError, match="only a kernel may"):
        put(np.ones((1, 1)))
