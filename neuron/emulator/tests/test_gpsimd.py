"""Index patterns, gathers, the eight largest and their ties."""

import numpy as np
import pytest

from neuron.emulator import NotEmulatedError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import put, run, tile

NOWHERE = 2**32 - 1


def test_iota():
    def body():
        out, grid = tile((3, 4), nl.int32), tile((2, 2, 3), nl.float32)
        nisa.iota(dst=out, pattern=[[2, 4]], offset=10, channel_multiplier=100)
        nisa.iota(dst=grid, pattern=[[10, 2], [-1, 3]])
        return out, grid

    out, grid = run(body)
    np.testing.assert_array_equal(
        out, [[10, 12, 14, 16], [110, 112, 114, 116], [210, 212, 214, 216]]
    )
    np.testing.assert_array_equal(grid[1], [[0, -1, -2], [10, 9, 8]])


def test_affine_select_is_a_causal_mask():
    def body(x):
        out = tile((4, 4))
        nisa.affine_select(
            dst=out,
            pattern=[[-1, 4]],
            offset=0,
            channel_multiplier=1,
            on_true_tile=x,
            on_false_value=-1.0,
            cmp_op=nl.greater_equal,
        )
        return out

    x = np.arange(16, dtype=np.float32).reshape(4, 4)
    np.testing.assert_array_equal(run(body, x), np.where(np.tri(4), x, -1))


def test_n_gather():
    x = np.arange(10, dtype=np.float32).reshape(2, 5)

    def body(x):
        out = tile((2, 3))
        nisa.nc_n_gather(dst=out, data=x, indices=put([[4, 0, 4], [1, 2, 3]], "uint32"))
        return out

    np.testing.assert_array_equal(run(body, x), [[4, 0, 4], [6, 7, 8]])


def test_local_gather_flattens_indices_partition_first():
    x = np.arange(32 * 40, dtype=np.float32).reshape(32, 40)
    index = np.zeros((32, 2), np.uint16)
    index[:4, 0] = [6, 2, 8, 4]
    index[16:20, 0] = [0, 10, 12, 38]

    def body(x, index):
        out = tile((32, 4, 2))
        nisa.local_gather(
            dst=out, src_buffer=x, index=index, num_elem_per_idx=2, num_valid_indices=4
        )
        return out

    result = run(body, x, index)
    np.testing.assert_array_equal(result[0], [[6, 7], [2, 3], [8, 9], [4, 5]])
    np.testing.assert_array_equal(result[17] - x[17, 0], [[0, 1], [10, 11], [12, 13], [38, 39]])


@pytest.mark.parametrize(("op", "expected"), [(nl.add, [9, 12]), (nl.maximum, [5, 6])])
def test_partition_reduce(op, expected):
    x = np.array([[1, 2], [3, 4], [5, 6]], np.float32)

    def body(x):
        out = tile((1, 2))
        nisa.tensor_partition_reduce(dst=out, op=op, data=x)
        return out

    np.testing.assert_array_equal(run(body, x), [expected])


def test_sequence_bounds():
    ids = np.array([[1, 1, 3, 3, 3, 0, 0, 2]], np.int32)

    def body(ids):
        out = tile((1, 2, 8), nl.int32)
        nisa.sequence_bounds(dst=out, segment_ids=ids)
        return out

    start, end = run(body, ids)[0]
    np.testing.assert_array_equal(start, [0, 0, 2, 2, 2, 8, 8, 7])
    np.testing.assert_array_equal(end, [2, 2, 5, 5, 5, -1, -1, 8])


def test_nonzero_with_count():
    x = np.zeros((17, 8), np.float32)
    x[0, [1, 2, 5]] = 1
    x[1] = 1

    def body(x):
        out = nl.full((17, 9), 7, nl.int32)
        nisa.nonzero_with_count(dst=out, src=x, index_offset=16, padding_val=-1)
        return out

    result = run(body, x)
    np.testing.assert_array_equal(result[0], [17, 18, 21, -1, -1, -1, -1, -1, 3])
    assert (result[1] == 7).all()
    np.testing.assert_array_equal(result[16], [-1] * 8 + [0])


TIES = np.array([[5.0, 7.0, 5.0, 7.0, 1.0, 5.0, 0.0, 7.0, 5.0, 2.0]], np.float32)
BEST = [[7, 7, 7, 5, 5, 5, 5, 2]]


def test_max8():
    def body(x):
        out = tile((1, 8))
        nisa.max8(dst=out, src=x)
        return out

    np.testing.assert_array_equal(run(body, TIES), BEST)


def test_find_index8_counts_occurrences_upwards():
    def body(x):
        out, short = tile((1, 8), nl.uint32), tile((1, 8), nl.uint16)
        nisa.nc_find_index8(dst=out, data=x, vals=put(BEST))
        nisa.nc_find_index8(dst=short, data=x, vals=put([[7, 9, 2, 7, 7, 7, 0, 1]]))
        return out, short

    out, short = run(body, TIES)
    np.testing.assert_array_equal(out, [[1, 3, 7, 0, 2, 5, 8, 9]])
    np.testing.assert_array_equal(short, [[1, 65535, 9, 3, 7, 65535, 6, 4]])


def test_match_replace8_hands_places_out_from_the_last_slot():
    def body(x):
        places = tile((1, 8), nl.uint32)
        nisa.nc_match_replace8(dst=x, data=x, vals=put(BEST), imm=-1.0, dst_idx=places)
        return x, places

    left, places = run(body, TIES)
    np.testing.assert_array_equal(places, [[7, 3, 1, 8, 5, 2, 0, 9]])
    np.testing.assert_array_equal(left, [[-1, -1, -1, -1, 1, -1, 0, -1, -1, -1]])


def test_match_replace8_misses():
    def body(x):
        places = tile((1, 8), nl.uint32)
        nisa.nc_match_replace8(
            dst=x, data=x, vals=nl.full((1, 8), 99.0, nl.float32), imm=-1.0, dst_idx=places
        )
        return x, places

    left, places = run(body, TIES)
    np.testing.assert_array_equal(left, TIES)
    assert (places == NOWHERE).all()


def test_poison_reaches_the_largest():
    x = TIES.copy()
    x[0, 4] = np.nan

    def body(x):
        out = tile((1, 8))
        nisa.max8(dst=out, src=x)
        return out

    assert np.isnan(run(body, x)).all()


def test_what_has_no_model_says_so():
    with pytest.raises(NotEmulatedError, match="nisa.rng: instruction: has no model"):
        _ = nisa.rng
    assert not hasattr(nisa, "rng") and not hasattr(nisa, "no_such_thing")
