"""Short kernels for tests: arrays become tiles, tiles that a body gives become arrays."""

import numpy as np

from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.launch import Simulation


def tile(shape, dtype="float32", buffer=nl.sbuf):
    return nl.ndarray(shape, dtype, buffer=buffer)


def put(values, dtype="float32", buffer=nl.sbuf):
    """A tile that holds an array."""
    values = np.asarray(values)
    on_chip = tile(values.shape, dtype)
    source = nl.shared_constant(values, dtype)
    nisa.dma_copy(dst=on_chip, src=source)
    if buffer is nl.sbuf:
        return on_chip
    result = tile(values.shape, dtype, buffer)
    nisa.tensor_copy(dst=result, src=on_chip)
    return result


def give(view):
    """A tile or HBM tensor as something that a kernel may return."""
    out = nl.ndarray(view.shape, view.dtype, buffer=nl.shared_hbm)
    if view.buffer is nl.psum:
        copy = tile(view.shape, view.dtype)
        nisa.tensor_copy(dst=copy, src=view)
        view = copy
    nisa.dma_copy(dst=out, src=view)
    return out


def run(body, *arrays, target="trn2", programs=None):
    """What ``body(*tiles)`` gives, as arrays: one, or a tuple."""
    from neuron.emulator import jit

    def kernel(*inputs):
        result = body(*(nl.load(x) for x in inputs))
        if isinstance(result, tuple):
            return tuple(give(view) for view in result)
        return None if result is None else give(result)

    launched = jit(kernel) if programs is None else jit(kernel)[programs]
    return Simulation(launched, target)(*arrays)
