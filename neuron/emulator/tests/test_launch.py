"""Arguments and results of kernels, two programs of a launch, races, targets."""

import jax.numpy as jnp
import numpy as np
import pytest

from neuron.emulator import RaceError, RuleError, jit, simulate
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl

X = np.arange(12, dtype=np.float32).reshape(4, 3)


def double(x, out):
    """out = 2 x, by way of SBUF."""
    t = nl.ndarray(x.shape, x.dtype)
    nisa.dma_copy(dst=t, src=x)
    nisa.tensor_scalar(dst=t, data=t, op0=nl.multiply, operand0=2.0)
    nisa.dma_copy(dst=out, src=t)


@jit
def doubled(x, times=1):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    double(x, out)
    for _ in range(times - 1):
        double(out, out)
    return out


@jit
def halves(x):
    """Each program doubles its half of the rows."""
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    rows = x.shape[0] // nl.num_programs(0)
    start = nl.program_id(0) * rows
    double(x[start : start + rows], out[start : start + rows])
    return out


def test_static_arguments_and_jax_arrays():
    np.testing.assert_array_equal(simulate(doubled)(X, times=3), 8 * X)
    np.testing.assert_array_equal(simulate(doubled)(jnp.asarray(X)), 2 * X)
    np.testing.assert_array_equal(doubled(X), 2 * X)


def test_inputs_change_in_place():
    @jit
    def in_place(x):
        double(x, x)
        return x

    x = X.copy()
    result = simulate(in_place)(x)
    np.testing.assert_array_equal(x, 2 * X)
    np.testing.assert_array_equal(result, 2 * X)


def test_tuples_come_back():
    @jit
    def two(x, pair):
        assert pair[1] == "static"
        outs = []
        for source in (x, pair[0]):
            out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
            double(source, out)
            outs.append(out)
        return outs[0], outs[1]

    a, b = simulate(two)(X, (X + 1, "static"))
    np.testing.assert_array_equal(a, 2 * X)
    np.testing.assert_array_equal(b, 2 * X + 2)


def returning(make):
    return jit(lambda x: make(x))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: nl.ndarray((2, 2), nl.float32), "is in sbuf, must be in shared_hbm"),
        (lambda x: nl.ndarray((2,), nl.float32, buffer=nl.private_hbm), "is in private_hbm"),
        (lambda x: 3, "must be a tensor or a tuple of tensors, got 3"),
        (lambda x: [x], "must be a tensor or a tuple of tensors"),
        (
            lambda x: nl.ndarray((2, 2), nl.int32, buffer=nl.shared_hbm),
            r"4 of 4 elements were never written, the first at \(0, 0\)",
        ),
        (lambda x: doubled(x), "a kernel can't call a kernel"),
    ],
)
def test_bad_results(make, message):
    with pytest.raises(RuleError, match=message):
        simulate(returning(make))(X)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([X],), "x: is a list; pass a tuple"),
        ((X.astype(np.float64),), "x: dtype 'float64' is none of"),
        ((np.ones((0, 3), np.float32),), r"x: has the shape \(0, 3\); it needs elements"),
        ((), "missing a required argument: 'x'"),
        ((X, 1, 2), "too many positional arguments"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(RuleError, match=message):
        simulate(doubled)(*arguments)


def test_two_programs_share_the_work():
    np.testing.assert_array_equal(simulate(halves)(X), 2 * X)
    launched = simulate(halves[2])
    np.testing.assert_array_equal(launched(X), 2 * X)
    assert [r.hbm_written for r in launched.reports] == [24, 24]


def test_launch_is_seen_inside():
    seen = []

    @jit
    def look():
        seen.append((nl.program_id(0), nl.num_programs(0), nl.program_ndim()))

    simulate(look)()
    simulate(look[1])()
    simulate(look[2])()
    assert seen == [(0, 1, 0), (0, 1, 1), (0, 2, 1), (1, 2, 1)]


@jit
def overlapping(x):
    out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
    i = nl.program_id(0)
    double(x[i : i + 3], out[i : i + 3])
    return out


def test_both_write_one_element():
    message = r"data race: program 1 writes what the other program wrote, 6 elements, the first at"
    with pytest.raises(RaceError, match=message):
        simulate(overlapping[2])(X)


def exchange(barrier):
    """Each program doubles half of a shared tensor, then reads the other half."""

    @jit
    def kernel(x):
        half = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)
        mine, other = nl.program_id(0) * 2, 2 - nl.program_id(0) * 2
        double(x[mine : mine + 2], half[mine : mine + 2])
        if barrier:
            nisa.core_barrier(data=half, cores=(0, 1))
        double(half[other : other + 2], out[other : other + 2])
        return out

    return kernel


def test_barrier_orders_the_programs():
    np.testing.assert_array_equal(simulate(exchange(True)[2])(X), 4 * X)


def test_exchange_without_a_barrier_is_a_race():
    with pytest.raises(RaceError, match="program 1 writes what the other program read, 6 elem"):
        simulate(exchange(False)[2])(X)


def test_reading_what_the_other_has_written_is_a_race():
    @jit
    def shift(x):
        t = nl.ndarray((1, 3), x.dtype)
        i = nl.program_id(0)
        nisa.dma_copy(dst=t, src=x[i : i + 1])
        nisa.dma_copy(dst=x[i + 1 : i + 2], src=t)

    with pytest.raises(RaceError, match="program 1 reads what the other program wrote, 3 elem"):
        simulate(shift[2])(X.copy())


def test_sendrecv():
    @jit
    def swap(x):
        out = nl.ndarray((2, 3), x.dtype, buffer=nl.shared_hbm)
        i = nl.program_id(0)
        mine, theirs = nl.ndarray((1, 3), x.dtype), nl.ndarray((1, 3), x.dtype)
        nisa.dma_copy(dst=mine, src=x[i : i + 1])
        nisa.sendrecv(src=mine, dst=theirs, send_to_rank=1 - i, recv_from_rank=1 - i, pipe_id=0)
        nisa.dma_copy(dst=out[i : i + 1], src=theirs)
        return out

    np.testing.assert_array_equal(simulate(swap[2])(X[:2]), X[[1, 0]])


def test_programs_must_agree_on_instructions():
    @jit
    def uneven(x):
        for _ in range(1 + nl.program_id(0)):
            t = nl.ndarray(x.shape, x.dtype)
            nisa.dma_copy(dst=t, src=x)

    message = "number 1 is nothing in program 0 and dma_copy in program 1"
    with pytest.raises(RuleError, match=message):
        simulate(uneven[2])(X)


def test_a_program_that_never_comes_is_no_hang():
    @jit
    def lonely(x):
        if nl.program_id(0) == 0:
            nisa.core_barrier(data=x, cores=(0, 1))

    with pytest.raises(RaceError, match="the other program has ended"):
        simulate(lonely[2])(X)


def test_error_in_one_program_ends_both():
    @jit
    def fails(x):
        if nl.program_id(0) == 1:
            nl.ndarray((129, 1), nl.float32)
        nisa.core_barrier(data=x, cores=(0, 1))

    with pytest.raises(RuleError, match="129 partitions"):
        simulate(fails[2])(X)


@pytest.mark.parametrize("degree", [0, 3, (2, 1), "2"])
def test_degree_is_one_or_two(degree):
    with pytest.raises(RuleError, match="degree"):
        doubled[degree]


def test_degree_must_match_the_environment(monkeypatch):
    monkeypatch.setenv("NEURON_LOGICAL_NC_CONFIG", "1")
    with pytest.raises(RuleError, match="differs from NEURON_LOGICAL_NC_CONFIG=1"):
        doubled[2]


def test_two_programs_need_trn2():
    with pytest.raises(RuleError, match="2 needs gen3, the target is gen2"):
        simulate(halves[2], target="trn1")(X)


def test_target_from_the_environment(monkeypatch):
    monkeypatch.setenv("NEURON_PLATFORM_TARGET_OVERRIDE", "trn3")
    seen = []

    @jit
    def look():
        seen.append(nisa.get_nc_version())

    simulate(look)()
    assert seen == [nisa.nc_version.gen4]
    with pytest.raises(ValueError, match="no target 'trn9'; choose one of trn1"):
        simulate(look, target="trn9")()


def test_jit_takes_no_options():
    with pytest.raises(RuleError, match="mode: is no option"):
        jit(mode="trace")


def test_registers_and_device_loops():
    @jit
    def count(x):
        out = nl.ndarray(x.shape, x.dtype, buffer=nl.shared_hbm)

        def copy_row(i):
            row = nl.ndarray((1, 3), x.dtype)
            nisa.dma_copy(dst=row, src=x.ap([[3, 1], [1, 3]], scalar_offset=i))
            nisa.dma_copy(dst=out.ap([[3, 1], [1, 3]], scalar_offset=i), src=row)

        nl.fori_loop(0, 4, copy_row)
        left = nisa.register_alloc(3)
        seen = []

        def tick(register):
            seen.append(register.get())
            nisa.register_move(register, register.get() - 1)

        nl.while_loop(left, tick)
        assert seen == [3, 2, 1]
        return out

    np.testing.assert_array_equal(simulate(count)(X), X)


def test_no_reorder_and_print(capsys):
    @jit
    def shows(x):
        with nl.no_reorder():
            nl.device_print("x is", nl.load(x))

    simulate(shows.with_schedule([]))(X[:1])
    assert capsys.readouterr().out == "x is [[0. 1. 2.]]\n"


def test_missing_names_say_what_to_use():
    for name, word in (("divide", "reciprocal"), ("mgrid", "slices"), ("nonsense", "not exist")):
        with pytest.raises(AttributeError, match=word):
            getattr(nl, name)
