"""Copies, conversions, gathers, scatters and transpositions by DMA."""

import ml_dtypes
import numpy as np
import pytest

from neuron.emulator import RuleError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import give, put, run, tile

TABLE = np.arange(20, dtype=np.float32).reshape(5, 4)


def gather(table, rows, out=None, **options):
    index = put(np.array(rows)[:, None], "uint32")
    out = tile((len(rows), 4)) if out is None else out
    source = table.ap([[4, len(rows)], [1, 4]], vector_offset=index, indirect_dim=0)
    nisa.dma_copy(dst=out, src=source, **options)
    return out


def test_shapes_are_free_if_counts_agree():
    def body(x):
        out = tile((2, 10))
        nisa.dma_copy(dst=out, src=x)
        return out

    np.testing.assert_array_equal(run(body, TABLE), TABLE.reshape(2, 10))


def test_gathers_a_row_for_each_partition():
    result = run(lambda x: gather(give(x), [3, 0, 3]), TABLE)
    np.testing.assert_array_equal(result, TABLE[[3, 0, 3]])


def test_gather_of_a_reshaped_tensor_counts_its_own_rows():
    def body(x):
        flat = give(x).reshape((10, 2))
        index = put([[7], [1]], "uint32")
        out = tile((2, 2))
        nisa.dma_copy(dst=out, src=flat.ap([[2, 2], [1, 2]], vector_offset=index))
        return out

    np.testing.assert_array_equal(run(body, TABLE), TABLE.reshape(10, 2)[[7, 1]])


def test_vector_select_is_the_same_gather():
    def body(x):
        out = tile((2, 4))
        nisa.dma_copy(dst=out, src=give(x).vector_select(0, put([[4], [2]], "int32")))
        return out

    np.testing.assert_array_equal(run(body, TABLE), TABLE[[4, 2]])


def test_rows_out_of_range():
    def body(mode):
        return lambda x: gather(give(x), [1, 9], nl.full((2, 4), -1.0, nl.float32), oob_mode=mode)

    skipped = run(body(nisa.oob_mode.skip), TABLE)
    np.testing.assert_array_equal(skipped, [TABLE[1], [-1] * 4])
    with pytest.raises(RuleError, match=r"index 9 of partition 1 is not in 0\.\.4"):
        run(body(nisa.oob_mode.error), TABLE)


def test_scatter():
    def body(x):
        table = give(nl.zeros((5, 4), nl.float32))
        index = put([[4], [1]], "uint32")
        nisa.dma_copy(dst=table.ap([[4, 2], [1, 4]], vector_offset=index), src=x[0:2])
        out = tile((5, 4))
        nisa.dma_copy(dst=out, src=table)
        return out

    expected = np.zeros((5, 4))
    expected[[4, 1]] = TABLE[:2]
    np.testing.assert_array_equal(run(body, TABLE), expected)


def test_scatter_skips_many_rows_out_of_range():
    def body(x):
        table = give(nl.zeros((5, 4), nl.float32))
        index = put([[-1], [1], [-1]], "int32")
        place = table.ap([[4, 3], [1, 4]], vector_offset=index)
        nisa.dma_copy(dst=place, src=x[0:3], oob_mode=nisa.oob_mode.skip)
        out = tile((5, 4))
        nisa.dma_copy(dst=out, src=table)
        return out

    expected = np.zeros((5, 4))
    expected[1] = TABLE[1]
    np.testing.assert_array_equal(run(body, TABLE), expected)


def test_scatter_add_and_gather_add():
    def body(x):
        table = give(x)
        index = put([[2], [0]], "uint32")
        ones = nl.ones((2, 4), nl.float32)
        place = table.ap([[4, 2], [1, 4]], vector_offset=index)
        nisa.dma_compute(dst=place, srcs=[place, ones], reduce_op=nl.add)
        back = nl.ones((2, 4), nl.float32)
        nisa.dma_compute(dst=back, srcs=[back, place], reduce_op=nl.add)
        out = tile((5, 4))
        nisa.dma_copy(dst=out, src=table)
        return out, back

    out, back = run(body, TABLE)
    expected = TABLE.copy()
    expected[[2, 0]] += 1
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(back, expected[[2, 0]] + 1)


def test_sum_of_tensors():
    def body(x):
        out = tile((5, 4))
        nisa.dma_compute(dst=out, srcs=[x, give(x), x], reduce_op=nl.add, scales=[1.0] * 3)
        return out

    np.testing.assert_array_equal(run(body, TABLE), 3 * TABLE)


@pytest.mark.parametrize(
    ("shape", "axes"), [((3, 5), (1, 0)), ((2, 3, 4), (2, 1, 0)), ((2, 3, 4, 5), (3, 1, 2, 0))]
)
def test_transpose(shape, axes):
    values = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)

    def body(x):
        out = tile(tuple(shape[a] for a in axes))
        nisa.dma_transpose(dst=out, src=give(x), axes=axes)
        return out

    np.testing.assert_array_equal(run(body, values), values.transpose(axes))


def test_gather_and_transpose():
    table = np.arange(40 * 8, dtype=np.float32).reshape(40, 8).astype(ml_dtypes.bfloat16)
    rows = np.arange(16)[::-1] * 2

    def body(table):
        index = put(rows[:, None], "uint32")
        out = tile((8, 16), nl.bfloat16)
        nisa.dma_transpose(dst=out, src=give(table).ap([[8, 16], [1, 8]], vector_offset=index))
        return out

    np.testing.assert_array_equal(run(body, table), table[rows].T)
