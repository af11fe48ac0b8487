"""Views share storage, and indexing neither clips nor drops the partition axis."""

import numpy as np
import pytest

from neuron.emulator import RuleError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import give, put, run, tile

GRID = np.arange(24, dtype=np.float32).reshape(2, 12)


def shapes(make):
    found = []

    def body():
        found.append(make().shape)

    run(body)
    return found[0]


@pytest.mark.parametrize(
    ("key", "shape"),
    [
        (0, (1, 12)),
        ((slice(None), 3), (2, 1)),
        ((slice(0, 1), slice(2, 9)), (1, 7)),
        ((slice(None), slice(0, 12, 5)), (2, 3)),
        ((Ellipsis, slice(4, 6)), (2, 2)),
    ],
)
def test_on_chip_views_stay_two_dimensional(key, shape):
    assert shapes(lambda: tile((2, 12))[key]) == shape


def test_integer_on_the_last_of_three_axes():
    assert shapes(lambda: tile((4, 3, 5))[:, 0, 2]) == (4, 1)
    assert shapes(lambda: tile((4, 3, 5))[:, 0]) == (4, 5)
    assert shapes(lambda: tile((4, 3, 5))[2]) == (1, 3, 5)


def test_hbm_drops_indexed_axes():
    def hbm(*shape):
        return nl.ndarray(shape, nl.float32, buffer=nl.private_hbm)

    assert shapes(lambda: hbm(4, 3, 5)[1]) == (3, 5)
    assert shapes(lambda: hbm(4, 3, 5)[1, :, 2]) == (3,)
    assert shapes(lambda: hbm(4, 3, 5)[1, 2, 3]) == (1,)


def test_ds_is_start_and_size():
    assert shapes(lambda: tile((2, 12))[:, nl.ds(3, 4)]) == (2, 4)


def test_writes_show_through_views():
    def body(x):
        nisa.memset(dst=x[:, 2:12:4], value=-1.0)
        nisa.memset(dst=x.reshape((2, 3, 4))[:, 1, 0:2], value=7.0)
        return x

    expected = GRID.copy()
    expected[:, 2:12:4] = -1
    expected[:, 4:6] = 7
    np.testing.assert_array_equal(run(body, GRID), expected)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (lambda x: x.reshape((2, 3, 4)).permute((0, 2, 1)), lambda a: a.transpose(0, 2, 1)),
        (lambda x: x.reshape_dim(1, (3, -1)), lambda a: a),
        (lambda x: x.reshape((2, 3, 4)).flatten_dims(1, 2), lambda a: a.reshape(2, 12)),
        (lambda x: x.expand_dim(1).broadcast(1, 2), lambda a: np.stack([a.reshape(2, 12)] * 2, 1)),
        (lambda x: x.expand_dim(2).squeeze_dim(2), lambda a: a.reshape(2, 12)),
        (lambda x: x.reshape((2, 3, 4)).select(1, 2), lambda a: a[:, 2]),
        (lambda x: x.slice(1, 1, 9, 3), lambda a: a.reshape(2, 12)[:, 1:9:3]),
        (
            lambda x: x.rearrange(("p", ("h", "w")), ("p", "w", "h"), {"h": 3}),
            lambda a: a.transpose(0, 2, 1),
        ),
        (
            lambda x: x.ap([[12, 2], [0, 2], [2, 6]]),
            lambda a: np.stack([a.reshape(2, 12)[:, ::2]] * 2, 1),
        ),
        (lambda x: x.ap([[12, 2], [1, 3]], offset=4), lambda a: a.reshape(2, 12)[:, 4:7]),
        (lambda x: x.ap([[12, 2], [-1, 12]], offset=11), lambda a: a.reshape(2, 12)[:, ::-1]),
    ],
)
def test_view_methods(make, expected):
    result = run(make, GRID)
    np.testing.assert_array_equal(result, expected(GRID.reshape(2, 3, 4)).reshape(result.shape))


def test_view_reinterprets_bits():
    bits = run(lambda x: x.view(nl.int32), GRID)
    np.testing.assert_array_equal(bits, GRID.view(np.int32))
    halves = run(lambda x: x.view(nl.uint16), GRID)
    np.testing.assert_array_equal(halves, GRID.view(np.uint16))


def test_row_of_hbm_repeated_on_partitions():
    def kernel_body():
        row = nl.shared_constant(np.array([[1.0, 2.0, 3.0]], np.float32))
        wide = tile((4, 3))
        nisa.dma_copy(dst=wide, src=row.ap([[0, 4], [1, 3]]))
        return wide

    np.testing.assert_array_equal(run(kernel_body), np.tile([1.0, 2.0, 3.0], (4, 1)))


def test_scalar_offset_moves_the_start():
    def body(x):
        index = put(np.array([[2]]), "int32")
        source = give(x)
        moved = tile((1, 12))
        nisa.dma_copy(dst=moved, src=source.ap([[12, 1], [1, 12]], scalar_offset=index))
        return moved

    rows = np.arange(48, dtype=np.float32).reshape(4, 12)
    np.testing.assert_array_equal(run(body, rows), rows[2:3])


def test_dynamic_select_on_a_free_axis():
    def body(x):
        index = put(np.array([[1]]), "int32")
        picked = tile((2, 4))
        nisa.tensor_copy(dst=picked, src=x.reshape((2, 3, 4)).select(1, index))
        return picked

    np.testing.assert_array_equal(run(body, GRID), GRID.reshape(2, 3, 4)[:, 1])


def test_writes_go_through_reversed_patterns():
    def body(x):
        out = tile((2, 12))
        nisa.tensor_copy(dst=out.ap([[12, 2], [-1, 12]], offset=11), src=x)
        return out

    np.testing.assert_array_equal(run(body, GRID), GRID[:, ::-1])


def test_equality_is_identity():
    def body():
        t = tile((2, 2))
        assert t == t and t != tile((2, 2)) and t != None and not (t == None)  # noqa: E711

    run(body)


def test_attributes():
    def body():
        view = tile((4, 6, 2))[:, 1:3, 0]
        assert (view.ndim, view.size, view.shape) == (2, 8, (4, 2))
        assert view.strides == (12, 2) and view.offset == 2
        assert view.dtype == nl.float32 and view.buffer == nl.sbuf
        assert not view.is_contiguous() and tile((4, 6)).is_contiguous()

    run(body)


def test_error_names_limit_and_value():
    with pytest.raises(RuleError, match=r"index of axis 1: 8:20 does not hold .* <= 12"):
        run(lambda x: x[:, 8:20], GRID)
