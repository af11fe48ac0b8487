"""The instructions, as ``nki.isa`` has them."""

from typing import Any

from neuron.emulator.isa.cores import (
    VirtualRegister,
    core_barrier,
    get_nc_version,
    register_alloc,
    register_load,
    register_move,
    register_store,
    sendrecv,
)
from neuron.emulator.isa.dma import dma_compute, dma_copy, dma_transpose
from neuron.emulator.isa.elementwise import (
    memset,
    nc_stream_shuffle,
    reciprocal,
    scalar_tensor_tensor,
    tensor_copy,
    tensor_copy_predicated,
    tensor_scalar,
    tensor_tensor,
)
from neuron.emulator.isa.enums import (
    dge_mode,
    dma_engine,
    engine,
    matmul_perf_mode,
    nc_version,
    oob_mode,
    reduce_cmd,
)
from neuron.emulator.isa.gpsimd import (
    affine_select,
    iota,
    local_gather,
    nc_n_gather,
    nonzero_with_count,
    sequence_bounds,
    tensor_partition_reduce,
)
from neuron.emulator.isa.reductions import (
    bn_aggr,
    bn_stats,
    tensor_reduce,
    tensor_scalar_cumulative,
    tensor_scalar_reduce,
    tensor_tensor_scan,
)
from neuron.emulator.isa.scalar import activation, activation_reduce
from neuron.emulator.isa.selections import exponential, range_select, select_reduce
from neuron.emulator.isa.tensor_engine import nc_matmul, nc_transpose
from neuron.emulator.isa.top8 import max8, nc_find_index8, nc_match_replace8, topk
from neuron.emulator.rules import NotEmulatedError
from neuron.emulator.rules import RuleError as NkiValidationError

tensor_engine = engine.tensor
vector_engine = engine.vector
scalar_engine = engine.scalar
gpsimd_engine = engine.gpsimd
unknown_engine = engine.unknown

NOT_EMULATED = (
    "activate2",
    "dropout",
    "nc_matmul_mx",
    "quantize_mx",
    "rand2",
    "rand_get_state",
    "rand_set_state",
    "rng",
    "set_rng_seed",
)
"""Instructions of the real package that have no model here."""

__all__ = [
    "NkiValidationError",
    "VirtualRegister",
    "activation",
    "activation_reduce",
    "affine_select",
    "bn_aggr",
    "bn_stats",
    "core_barrier",
    "dge_mode",
    "dma_compute",
    "dma_copy",
    "dma_engine",
    "dma_transpose",
    "engine",
    "exponential",
    "get_nc_version",
    "gpsimd_engine",
    "iota",
    "local_gather",
    "matmul_perf_mode",
    "max8",
    "memset",
    "nc_find_index8",
    "nc_match_replace8",
    "nc_matmul",
    "nc_n_gather",
    "nc_stream_shuffle",
    "nc_transpose",
    "nc_version",
    "nonzero_with_count",
    "oob_mode",
    "range_select",
    "reciprocal",
    "reduce_cmd",
    "register_alloc",
    "register_load",
    "register_move",
    "register_store",
    "scalar_engine",
    "scalar_tensor_tensor",
    "select_reduce",
    "sendrecv",
    "sequence_bounds",
    "tensor_copy",
    "tensor_copy_predicated",
    "tensor_engine",
    "tensor_partition_reduce",
    "tensor_reduce",
    "tensor_scalar",
    "tensor_scalar_cumulative",
    "tensor_scalar_reduce",
    "tensor_tensor",
    "tensor_tensor_scan",
    "topk",
    "unknown_engine",
    "vector_engine",
]


def __getattr__(name: str) -> Any:
    if name in NOT_EMULATED:
        raise NotEmulatedError(f"nisa.{name}", "instruction", "has no model in the emulator")
    raise AttributeError(f"nisa has no {name!r}")
