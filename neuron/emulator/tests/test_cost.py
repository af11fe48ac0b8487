"""Counts of instructions, cycles and bytes."""

import numpy as np

from neuron.emulator import isa as nisa
from neuron.emulator import jit, simulate
from neuron.emulator import language as nl


def cost(body, *arrays, target="trn2"):
    run = simulate(jit(body), target)
    run(*arrays)
    return run.reports[0]


def ones(*shape, dtype=nl.float32):
    """A tile that costs nothing to make."""
    t = nl.ndarray(shape, dtype)
    t.write(np.ones(shape, np.float32))
    return t


def test_cycles_follow_the_rules():
    def body():
        a, b = ones(128, 512), ones(128, 512)
        nisa.tensor_tensor(dst=a, data1=a, data2=b, op=nl.add)
        nisa.tensor_scalar(dst=a, data=a, op0=nl.add, operand0=1.0)
        nisa.reciprocal(dst=a, data=a)
        nisa.activation(dst=a, op=nl.exp, data=a)

    report = cost(body)
    assert report.engines["vector"].cycles == 1024 + 512 + 8 * 512
    assert report.engines["vector"].instructions == 3
    assert report.engines["scalar"].cycles == 512
    assert report.bottleneck == "vector"
    assert report.ops == {
        "nisa.activation": 1,
        "nisa.reciprocal": 1,
        "nisa.tensor_scalar": 1,
        "nisa.tensor_tensor": 1,
    }


def test_short_instructions_pay_their_fixed_cost():
    def body():
        t = ones(128, 1)
        nisa.tensor_scalar(dst=t, data=t, op0=nl.add, operand0=1.0)

    assert cost(body).engines["vector"].cycles == 64 + 100


def test_half_precision_is_faster_on_vector():
    def body():
        a = ones(128, 512, dtype=nl.bfloat16)
        nisa.tensor_tensor(dst=a, data1=a, data2=a, op=nl.add)

    assert cost(body).engines["vector"].cycles == 512
    assert cost(body, target="trn1").engines["vector"].cycles == 1024


def test_matmul_cost_depends_on_the_dtype():
    def body(dtype, **options):
        def matmul():
            a, b = ones(128, 128, dtype=dtype), ones(128, 512, dtype=dtype)
            out = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
            nisa.nc_matmul(dst=out, stationary=a, moving=b, accumulate=False, **options)

        return matmul

    half = cost(body(nl.bfloat16))
    assert half.engines["tensor"].cycles == 512
    assert half.flops == 2 * 128 * 128 * 512
    assert cost(body(nl.float32)).engines["tensor"].cycles == 2048
    assert cost(body(nl.float32, is_stationary_onezero=True)).engines["tensor"].cycles == 1024


def test_bytes_by_dma():
    def body(x):
        t = nl.ndarray(x.shape, x.dtype)
        nisa.dma_copy(dst=t, src=x)
        nisa.dma_copy(dst=t[:, 0:2], src=x[:, 0:2])

    report = cost(body, np.zeros((128, 256), np.float32))
    assert report.hbm_read == report.moved == 128 * 256 * 4 + 128 * 2 * 4
    assert (report.transfers, report.small_transfers) == (2, 1)
    assert report.seconds["dma"] >= report.moved / 362e9


def test_high_water_marks():
    def body():
        a, b = ones(128, 100), ones(128, 50)
        p = nl.ndarray((128, 512), nl.float32, buffer=nl.psum)
        del a, b, p
        ones(128, 120)

    report = cost(body)
    assert (report.sbuf_high_water, report.psum_high_water) == (600, 2048)


def test_table_names_the_busiest_part():
    def body():
        t = ones(128, 512)
        nisa.activation(dst=t, op=nl.exp, data=t)

    assert "busiest part on trn2 (gen3): scalar" in cost(body).table()
