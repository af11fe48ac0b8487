"""The TPU's kernels in JAX's interpreter of a TPU: memory is NaN until it is written.

It also keeps blocks in buffers between steps of the grid as a TPU does, and raises where a
kernel reads outside an array.
"""

import functools

import pytest
from jax.experimental.pallas import tpu as pltpu

from bmojo.ops import attention_xla as xla
from bmojo.ops import reference
from bmojo.ops.attention_pallas import memory_attention
from bmojo.ops.pallas.scan import scan
from bmojo.ops.pallas.targets import Target
from tests.numerics import assert_close
from tests.ops import scans
from tests.ops.pallas import test_attention as attention
from tests.ops.scans import draw_start
from tests.ops.test_recurrence import draw

pytestmark = pytest.mark.slow


@pytest.fixture
def tpu():
    careful = pltpu.InterpretParams(uninitialized_memory="nan", out_of_bounds_reads="raise")
    with pltpu.force_tpu_interpret_mode(careful):
        yield Target("tpu")


def test_scan(tpu):
    operands, start = draw("float32", 20, "mixed"), draw_start(2, 20)
    got = scans.everything(functools.partial(scan, chunk_size=8, target=tpu))(operands, start)
    want = scans.everything(reference.selective_scan)(operands, start)
    assert_close(got, want, "float32")


def test_attention(tpu):
    operands = attention.draw(70, 32, 3, "float32", batch=1, heads=2, groups=1)
    run = functools.partial(memory_attention, target=tpu, block=16)
    got = attention.everything(run, 32)(*operands, None)
    assert_close(got, attention.everything(xla.memory_attention, 32)(*operands, None), "float32")
