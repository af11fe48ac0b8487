# ruff: noqa: E501
"""Planted mistakes: what a kernel does wrong, and what it is told.

One line each: a name, the mistake, the message (a pattern), and the target if not trn2.
"""

from typing import NamedTuple

import numpy as np
import pytest

from neuron.emulator import RuleError
from neuron.emulator import isa as nisa
from neuron.emulator import language as nl
from neuron.emulator.tests.harness import run

F, H, I32, U32, U16, U8 = nl.float32, nl.bfloat16, nl.int32, nl.uint32, nl.uint16, nl.uint8
BIG = nl.float8_e4m3fn


def s(*shape, dtype=F):
    """A tile of zeros in SBUF."""
    return nl.zeros(shape, dtype)


def p(*shape, dtype=F):
    """A fresh tile in PSUM."""
    return nl.ndarray(shape, dtype, buffer=nl.psum)


def h(*shape, dtype=F):
    """A constant in HBM."""
    return nl.shared_constant(np.zeros(shape), dtype)


def mm(dst, a, b, **options):
    nisa.nc_matmul(dst=dst, stationary=a, moving=b, **options)


def tt(dst, a, b, op=nl.add, **options):
    nisa.tensor_tensor(dst=dst, data1=a, data2=b, op=op, **options)


def ts(dst, x, op0, operand0, **options):
    nisa.tensor_scalar(dst=dst, data=x, op0=op0, operand0=operand0, **options)


def act(dst, op, x, **options):
    nisa.activation(dst=dst, op=op, data=x, **options)


def scan(dst, a, b, initial=0.0, op0=nl.multiply, op1=nl.add):
    nisa.tensor_tensor_scan(dst=dst, data0=a, data1=b, initial=initial, op0=op0, op1=op1)


def select(x, **options):
    common = dict(comp_op0=nl.less, comp_op1=nl.less, bound0=s(2, 1), bound1=s(2, 1))
    nisa.range_select(**{**dict(dst=s(2, 4), on_true_tile=x), **common, **options})


def rows(table, index, out=None, **options):
    source = table.ap([[4, 2], [1, 4]], vector_offset=index)
    nisa.dma_copy(dst=out or s(2, 4), src=source, **options)


def memset_then_true():
    out = p(2, 4)
    mm(out, s(3, 2), s(3, 4), accumulate=False)
    nisa.memset(dst=out, value=1.0)
    mm(out, s(3, 2), s(3, 4), accumulate=True)


def scatter_twice():
    index = nl.ones((2, 1), U32)
    nisa.dma_copy(dst=h(5, 4).ap([[4, 2], [1, 4]], vector_offset=index), src=s(2, 4))


def scatter_add_elsewhere():
    place = h(5, 4).ap([[4, 2], [1, 4]], vector_offset=s(2, 1, dtype=U32))
    nisa.dma_compute(dst=place, srcs=[s(2, 4), s(2, 4)], reduce_op=nl.add)


class Misuse(NamedTuple):
    name: str
    mistake: object
    message: str
    target: str = "trn2"


TABLE = [
    # Allocation.
    Misuse("129 partitions", lambda: s(129, 4), r"nl\.ndarray: shape: .* has 129 partitions, at most 128"),
    Misuse("one axis on the chip", lambda: s(4), r"shape: \(4,\): on the chip a tensor has a partition"),
    Misuse("empty axis", lambda: s(4, 0), r"0 is no positive integer"),
    Misuse("buffer as a string", lambda: nl.ndarray((2, 2), F, buffer="sbuf"), r"buffer: must be nl\.sbuf.*'sbuf'"),
    Misuse("float64", lambda: s(2, 2, dtype="float64"), r"dtype 'float64' is none of"),
    Misuse("e4m3fn on trn2", lambda: s(2, 2, dtype=BIG), r"float8_e4m3fn needs gen4"),
    Misuse("PSUM off a bank", lambda: nl.ndarray((2, 2), F, buffer=nl.psum, address=(0, 100)), r"address: 100 is no multiple of the 2048"),
    Misuse("tile larger than SBUF", lambda: s(1, 60_000), r"240000 bytes .* exceed the 212984 bytes of SBUF"),
    Misuse("tile larger than PSUM", lambda: p(1, 5000), r"20000 bytes .* exceed the 16384 bytes of PSUM"),
    # Views.
    Misuse("slice beyond the end", lambda: s(2, 4)[:, 2:5], r"index of axis 1: 2:5 .* <= 4; nothing is clipped"),
    Misuse("empty slice", lambda: s(2, 4)[:, 2:2], r"2:2 does not hold"),
    Misuse("negative index", lambda: s(2, 4)[:, -1], r"-1 is not in 0\.\.3"),
    Misuse("partition stride", lambda: s(4, 4)[0:4:2], r"step 2: partitions are contiguous"),
    Misuse("too many indices", lambda: s(4, 4)[0, 0, 0], r"has 3 parts, the tensor 2 axes"),
    Misuse("tensor as index", lambda: s(4, 4)[s(1, 1, dtype=I32)], r"a tensor is no index; use ap"),
    Misuse("assignment", lambda: s(4, 4).__setitem__(0, 1.0), r"tensors are written by instructions"),
    Misuse("division of tensors", lambda: s(4, 4) / 2.0, r"tensors have no arithmetic"),
    Misuse("comparison with a number", lambda: s(4, 4) == 0.0, r"'==' can't compare elements with 0\.0"),
    Misuse("truth of a tensor", lambda: bool(s(4, 4)), r"isn't known when the kernel is traced"),
    Misuse("reshape moves partitions", lambda: s(4, 4).reshape((2, 8)), r"axis 0 is the partition axis and must stay 4"),
    Misuse("reshape changes the count", lambda: s(4, 4).reshape((4, 5)), r"has 20 elements, the tensor 16"),
    Misuse("reshape of a strided view", lambda: s(4, 4, 4)[:, :, 0:2].reshape((4, 8)), r"reshape: the layout with strides \(4, 1\)"),
    Misuse("permute of the partitions", lambda: s(4, 4).permute((1, 0)), r"axis 0 must stay first"),
    Misuse("ap beyond the storage", lambda: s(4, 4).ap([[4, 4], [1, 5]]), r"reaches elements 0 to 16 of 16"),
    Misuse("ap beyond the partition", lambda: s(4, 4).ap([[4, 3], [1, 5]]), r"the free pattern reaches elements 0 to 4 of 4"),
    Misuse("ap before the partition", lambda: s(4, 4).ap([[4, 4], [-1, 3]], offset=1), r"reaches elements -1 to 13 of 16"),
    Misuse("ap partition stride", lambda: s(4, 4).ap([[2, 2], [1, 2]]), r"partition stride must be the storage's 4 .* got 2"),
    Misuse("ap with both offsets", lambda: h(4, 4).ap([[4, 2], [1, 4]], scalar_offset=s(1, 1, dtype=I32), vector_offset=s(2, 1, dtype=I32)), r"exclude each other"),
    # Common to engines.
    Misuse("operand in HBM", lambda: tt(s(2, 4), h(2, 4), s(2, 4)), r"tensor_tensor: data1: is in shared_hbm, must be in sbuf or psum"),
    Misuse("start partition", lambda: act(s(8, 4), nl.exp, s(16, 4)[5:13]), r"data: 8 partitions start at partition 5, .* multiples of 32"),
    Misuse("start of 64 partitions", lambda: act(s(64, 4), nl.exp, s(128, 4)[32:96]), r"64 partitions start at partition 32, .* multiples of 64"),
    Misuse("five free axes", lambda: act(s(2, 3, 3, 3, 3, 3), nl.exp, s(2, 6, 6, 6, 6, 6)[:, 0:6:2, 0:6:2, 0:6:2, 0:6:2, 0:6:2]), r"has 5 free axes that don't merge"),
    Misuse("unknown keyword", lambda: tt(s(2, 4), s(2, 4), s(2, 4), mask=None), r"arguments: got an unexpected keyword argument 'mask'"),
    Misuse("missing operand", lambda: nisa.tensor_copy(dst=s(2, 4)), r"tensor_copy: arguments: missing a required argument: 'src'"),
    Misuse("NumPy function as operator", lambda: tt(s(2, 4), s(2, 4), s(2, 4), op=np.add), r"op: must be an operator of nl, got <ufunc 'add'>"),
    Misuse("engine as a string", lambda: nisa.tensor_copy(dst=s(2, 4), src=s(2, 4), engine="vector"), r"must be a nisa\.engine member, got 'vector'"),
    # Elementwise.
    Misuse("partitions differ", lambda: tt(s(2, 4), s(2, 4), s(3, 4)), r"data2: has 3 partitions, data1 has 2"),
    Misuse("no broadcasting", lambda: tt(s(2, 4), s(2, 4), s(2, 1)), r"data2: has 1 elements per partition, data1 has 4; there is no broadcasting"),
    Misuse("both inputs in PSUM", lambda: tt(s(2, 4), p(2, 4), p(2, 4)), r"data1 and data2: are both in psum"),
    Misuse("power in PSUM", lambda: tt(p(2, 4), s(2, 4), s(2, 4), op=nl.power), r"dst: is in psum, must be in sbuf"),
    Misuse("power on vector", lambda: tt(s(2, 4), s(2, 4), s(2, 4), op=nl.power, engine=nisa.engine.vector), r"nl\.power runs on gpsimd only"),
    Misuse("bits of floats", lambda: tt(s(2, 4), s(2, 4), s(2, 4), op=nl.bitwise_and), r"needs integer tiles; one is float32"),
    Misuse("there is no divide", lambda: tt(s(2, 4), s(2, 4), s(2, 4), op=nl.divide), r"nl\.divide: name: there is no divide"),
    Misuse("column in bfloat16", lambda: ts(s(2, 4), s(2, 4), nl.add, s(2, 1, dtype=H)), r"operand0: is bfloat16, must be float32"),
    Misuse("column too wide", lambda: ts(s(2, 4), s(2, 4), nl.add, s(2, 2)), r"operand0: must have the shape \(2, 1\), has \(2, 2\)"),
    Misuse("bits and arithmetic mixed", lambda: ts(s(2, 4, dtype=I32), s(2, 4, dtype=I32), nl.add, 1, op1=nl.bitwise_and, operand1=1), r"bits and arithmetic can't be mixed"),
    Misuse("operand without op", lambda: ts(s(2, 4), s(2, 4), nl.add, 1.0, operand1=1.0), r"operand1: is given without op1"),
    Misuse("operand of a unary op", lambda: ts(s(2, 4), s(2, 4), nl.abs, 3.0), r"operand0: must be None or 0: nl\.abs takes one operand"),
    Misuse("ScalarE can't subtract", lambda: ts(s(2, 4), s(2, 4), nl.subtract, 1.0, engine=nisa.engine.scalar), r"scalar takes multiply and add"),
    Misuse("GpSimd only for rsqrt", lambda: ts(s(2, 4), s(2, 4), nl.add, 1.0, engine=nisa.engine.gpsimd), r"gpsimd is allowed for nl\.rsqrt only"),
    Misuse("GpSimd copies from PSUM", lambda: nisa.tensor_copy(dst=s(2, 4), src=p(2, 4), engine=nisa.engine.gpsimd), r"src: is in psum, must be in sbuf"),
    Misuse("copy on ScalarE of trn1", lambda: nisa.tensor_copy(dst=s(2, 4), src=s(2, 4), engine=nisa.engine.scalar), r"scalar has no tensor_copy on gen2", "trn1"),
    Misuse("float into an integer tile", lambda: nisa.memset(dst=s(2, 4, dtype=I32), value=1.0), r"memset: value: 1\.0 is a float, the tile is int32"),
    Misuse("value beyond the dtype", lambda: nisa.memset(dst=s(2, 4, dtype=U8), value=256), r"256 is not in 0\.\.255 of uint8"),
    Misuse("predicate is signed", lambda: nisa.tensor_copy_predicated(dst=s(2, 4), src=0.0, predicate=s(2, 4, dtype=I32)), r"predicate: is int32, must be uint8"),
    Misuse("shuffle mask too short", lambda: nisa.nc_stream_shuffle(dst=s(32, 4), src=s(32, 4), shuffle_mask=[0]), r"must have 32 entries, has 1"),
    # Activation.
    Misuse("scale in bfloat16", lambda: act(s(2, 4), nl.exp, s(2, 4), scale=s(2, 1, dtype=H)), r"scale: is bfloat16, must be float32"),
    Misuse("bias for each element", lambda: act(s(2, 4), nl.exp, s(2, 4), bias=s(2, 4)), r"bias: must have the shape \(2, 1\)"),
    Misuse("number as bias on trn1", lambda: act(s(2, 4), nl.exp, s(2, 4), bias=1.0), r"bias: must be a column on gen2", "trn1"),
    Misuse("no activation function", lambda: act(s(2, 4), nl.add, s(2, 4)), r"nl\.add is no activation function"),
    Misuse("maximum in an activation", lambda: act(s(2, 4), nl.exp, s(2, 4), reduce_op=nl.maximum, reduce_cmd=nisa.reduce_cmd.reset_reduce), r"reduce_op: is nl\.maximum, must be add"),
    Misuse("log of zero", lambda: act(s(2, 4), nl.log, s(2, 4)), r"nl\.log is undefined at 0\.0 \(8 elements\)"),
    Misuse("rsqrt of zero", lambda: act(s(2, 4), nl.rsqrt, s(2, 4)), r"nl\.rsqrt is undefined at 0\.0"),
    Misuse("reciprocal of zero", lambda: act(s(2, 4), nl.reciprocal, s(2, 4)), r"nl\.reciprocal is undefined at 0\.0"),
    # Matmul.
    Misuse("matmul into SBUF", lambda: mm(s(2, 4), s(3, 2), s(3, 4)), r"nc_matmul: dst: is in sbuf, must be in psum"),
    Misuse("matmul reads PSUM", lambda: mm(p(2, 4), s(3, 2), p(3, 4)), r"moving: is in psum, must be in sbuf"),
    Misuse("contractions differ", lambda: mm(p(2, 4), s(3, 2), s(5, 4)), r"moving: has 5 partitions, stationary has 3"),
    Misuse("stationary too wide", lambda: mm(p(128, 4), s(3, 129), s(3, 4)), r"stationary: has 129 free elements, at most 128"),
    Misuse("moving too long", lambda: mm(p(2, 1024), s(3, 2), s(3, 1024)), r"moving: has 1024 free elements, at most 512"),
    Misuse("result of another shape", lambda: mm(p(2, 5), s(3, 2), s(3, 4)), r"dst: is \(2, 5\), stationary and moving give \(2, 4\)"),
    Misuse("bfloat16 result on trn2", lambda: mm(p(2, 4, dtype=H), s(3, 2), s(3, 4)), r"dst: is bfloat16, must be float32"),
    Misuse("float32 with bfloat16", lambda: mm(p(2, 4), s(3, 2, dtype=H), s(3, 4)), r"if one is float32, both must be"),
    Misuse("integer matmul", lambda: mm(p(2, 4), s(3, 2, dtype=I32), s(3, 4, dtype=I32)), r"stationary: is int32, must be float32"),
    Misuse("across two banks", lambda: mm(p(2, 4, 200)[:, 2:4, :], s(3, 2), s(3, 400)), r"span PSUM banks 0 to 1; a matmul writes one bank"),
    Misuse("sum onto fresh PSUM", lambda: mm(p(2, 4), s(3, 2), s(3, 4), accumulate=True), r"accumulate: True, but no matmul has written 8 of 8"),
    Misuse("sum onto another engine's write", memset_then_true, r"dst: another engine wrote it after the last matmul"),
    Misuse("accumulate as an integer", lambda: mm(p(2, 4), s(3, 2), s(3, 4), accumulate=1), r"must be True, False or None, got 1"),
    Misuse("ones and zeros that are not", lambda: mm(p(2, 4), s(3, 2), nl.full((3, 4), 2, F), is_moving_onezero=True), r"is_moving_onezero: is set, but the operand holds more"),
    Misuse("transpose by another matrix", lambda: mm(p(2, 3), s(3, 2), s(3, 3), is_transpose=True), r"moving: must be an identity matrix"),
    Misuse("half a tiling", lambda: mm(p(2, 4), s(3, 2), s(3, 4), tile_size=(32, 128)), r"tile_position and tile_size go together"),
    Misuse("transpose changes the dtype", lambda: nisa.nc_transpose(dst=p(4, 2), data=s(2, 4, dtype=H)), r"dst: is float32, must be data's bfloat16"),
    Misuse("transpose on VectorE too large", lambda: nisa.nc_transpose(dst=s(40, 2), data=s(2, 40), engine=nisa.engine.vector), r"the vector engine transposes at most \(32, 32\)"),
    Misuse("transpose within SBUF too large", lambda: nisa.nc_transpose(dst=s(40, 2), data=s(2, 40)), r"dst: is in sbuf, must be in psum"),
    # Reductions and scans.
    Misuse("reduction over partitions", lambda: nisa.tensor_reduce(dst=s(1, 4), op=nl.add, data=s(2, 4), axis=0), r"axis: 0 is the partition axis"),
    Misuse("reduction over a middle axis", lambda: nisa.tensor_reduce(dst=s(2, 4), op=nl.add, data=s(2, 3, 4), axis=1), r"axis: \(1,\) must be the last axes \(2,\)"),
    Misuse("operator that does not reduce", lambda: nisa.tensor_reduce(dst=s(2, 1), op=nl.power, data=s(2, 4), axis=1), r"op: is nl\.power, must be add or"),
    Misuse("scan of two PSUM tiles", lambda: scan(s(2, 4), p(2, 4), p(2, 4)), r"data0 and data1: are both in psum"),
    Misuse("scan from a row", lambda: scan(s(2, 4), s(2, 4), s(2, 4), initial=s(1, 2)), r"initial: must have the shape \(2, 1\), has \(1, 2\)"),
    Misuse("scan by exp", lambda: scan(s(2, 4), s(2, 4), s(2, 4), op0=nl.exp), r"op0: nl\.exp is no arithmetic of two operands"),
    Misuse("cumulative int32", lambda: nisa.tensor_scalar_cumulative(dst=s(2, 4), src=s(2, 4, dtype=I32), op0=nl.add, op1=nl.add, imm0=0.0), r"src: is int32, must be"),
    Misuse("exponential on trn2", lambda: nisa.exponential(dst=s(2, 4), src=s(2, 4)), r"is gen3, the instruction needs gen4"),
    Misuse("another fill value", lambda: select(s(2, 4), on_false_value=-1e9), r"on_false_value: is -1000000000\.0, the hardware knows only FP32_MIN"),
    Misuse("bounds in bfloat16", lambda: select(s(2, 4), bound0=s(2, 1, dtype=H)), r"bound0: is bfloat16, must be float32"),
    Misuse("range of integers", lambda: select(s(2, 4, dtype=I32)), r"on_true_tile: is int32"),
    Misuse("indices beyond float32", lambda: select(s(2, 4), range_start=2**24), r"is beyond 16777216"),
    Misuse("range_select on trn1", lambda: select(s(2, 4)), r"is gen2, the instruction needs gen3", "trn1"),
    Misuse("statistics of 513", lambda: nisa.bn_stats(dst=s(2, 6), data=s(2, 513)), r"has 513 elements per partition, at most 512"),
    # Top 8.
    Misuse("fewer than 8", lambda: nisa.max8(dst=s(2, 8), src=s(2, 7)), r"src: has 7 elements per partition, must have 8 to 16384"),
    Misuse("more than 16384", lambda: nisa.max8(dst=s(2, 8), src=s(2, 16385)), r"has 16385 elements"),
    Misuse("nine largest", lambda: nisa.max8(dst=s(2, 9), src=s(2, 16)), r"dst: is \(2, 9\), must have 2 partitions of 8"),
    Misuse("signed places", lambda: nisa.nc_find_index8(dst=s(2, 8, dtype=I32), data=s(2, 16), vals=s(2, 8)), r"dst: is int32, must be uint32 or uint16"),
    Misuse("places on trn1", lambda: nisa.nc_match_replace8(dst=s(2, 16), data=s(2, 16), vals=s(2, 8), imm=0.0, dst_idx=s(2, 8, dtype=U32)), r"needs gen3", "trn1"),
    Misuse("topk", lambda: nisa.topk(s(2, 8), s(2, 8), s(2, 16), 8), r"nisa\.topk: topk: has no model here"),
    # GpSimd.
    Misuse("iota into PSUM", lambda: nisa.iota(dst=p(2, 4, dtype=I32), pattern=[[1, 4]]), r"iota: dst: is in psum, must be in sbuf"),
    Misuse("pattern of another size", lambda: nisa.iota(dst=s(2, 4, dtype=I32), pattern=[[1, 5]]), r"pattern: has 5 elements, dst has 4"),
    Misuse("affine_select of PSUM", lambda: nisa.affine_select(dst=s(2, 4), pattern=[[1, 4]], channel_multiplier=0, on_true_tile=p(2, 4), on_false_value=0.0), r"on_true_tile: is in psum"),
    Misuse("gather by int32", lambda: nisa.nc_n_gather(dst=s(2, 4), data=s(2, 4), indices=s(2, 4, dtype=I32)), r"indices: is int32, must be uint32"),
    Misuse("gather out of range", lambda: nisa.nc_n_gather(dst=s(2, 4), data=s(2, 4), indices=nl.full((2, 4), 4, U32)), r"index 4 is not in 0\.\.3"),
    Misuse("local gather of 8 partitions", lambda: nisa.local_gather(dst=s(8, 16), src_buffer=s(8, 4), index=s(8, 1, dtype=U16)), r"multiple of 16"),
    Misuse("local gather of 3", lambda: nisa.local_gather(dst=s(16, 48), src_buffer=s(16, 4), index=s(16, 1, dtype=U16), num_elem_per_idx=3), r"3 is none of"),
    Misuse("local gather of runs without a count", lambda: nisa.local_gather(dst=s(16, 32), src_buffer=s(16, 4), index=s(16, 1, dtype=U16), num_elem_per_idx=2), r"num_valid_indices: is missing, without it the hardware ignores num_elem_per_idx=2"),
    Misuse("partition product", lambda: nisa.tensor_partition_reduce(dst=s(1, 4), op=nl.multiply, data=s(2, 4)), r"op: is nl\.multiply, must be add or maximum"),
    # DMA.
    Misuse("DMA from PSUM", lambda: nisa.dma_copy(dst=s(2, 4), src=p(2, 4)), r"dma_copy: src: is in psum, must be in sbuf or"),
    Misuse("DMA counts differ", lambda: nisa.dma_copy(dst=s(2, 4), src=h(2, 5)), r"dst: has 8 elements, src has 10"),
    Misuse("hardware DGE converts", lambda: nisa.dma_copy(dst=s(2, 4, dtype=H), src=h(2, 4), dge_mode=nisa.dge_mode.hwdge), r"hwdge can't convert"),
    Misuse("gather of an SBUF tile", lambda: rows(s(5, 4), s(2, 1, dtype=U32)), r"vector_offset: the tensor must be in HBM, is in sbuf"),
    Misuse("gather by floats", lambda: rows(h(5, 4), s(2, 1)), r"vector_offset: must be uint32 or int32, is float32"),
    Misuse("gather out of rows", lambda: rows(h(5, 4), nl.full((2, 1), 5, U32)), r"index 5 of partition 0 is not in 0\.\.4"),
    Misuse("gather by hardware DGE", lambda: rows(h(5, 4), s(2, 1, dtype=U32), dge_mode=nisa.dge_mode.hwdge), r"gather and scatter need swdge"),
    Misuse("gather on trn1", lambda: rows(h(5, 4), s(2, 1, dtype=U32)), r"needs gen3", "trn1"),
    Misuse("compute on a gather view", lambda: act(s(2, 4), nl.exp, h(5, 4).ap([[4, 2], [1, 4]], vector_offset=s(2, 1, dtype=U32))), r"data: is in shared_hbm"),
    Misuse("scatter to one row twice", scatter_twice, r"index 1 occurs twice"),
    Misuse("scatter-add elsewhere", scatter_add_elsewhere, r"exactly one must be the same view as dst"),
    Misuse("dma_compute maximum", lambda: nisa.dma_compute(dst=s(2, 4), srcs=[h(2, 4)] * 2, reduce_op=nl.maximum), r"reduce_op: must be nl\.add"),
    Misuse("dma_compute scales", lambda: nisa.dma_compute(dst=s(2, 4), srcs=[h(2, 4)] * 2, reduce_op=nl.add, scales=[1.0, 2.0]), r"scales: must be 2 times 1\.0"),
    Misuse("dma_compute of one", lambda: nisa.dma_compute(dst=s(2, 4), srcs=[h(2, 4)], reduce_op=nl.add), r"srcs: has 1 tensors, at least 2"),
    Misuse("dma_compute of 17", lambda: nisa.dma_compute(dst=s(2, 4), srcs=[h(2, 4)] * 17, reduce_op=nl.add), r"srcs: has 17 tensors, at most 16"),
    Misuse("transpose of other axes", lambda: nisa.dma_transpose(dst=s(2, 4, 3), src=h(2, 3, 4), axes=(0, 2, 1)), r"axes: must be \(2, 1, 0\) for 3 axes"),
    Misuse("scalar offset out of range", lambda: nisa.dma_copy(dst=s(1, 4), src=h(5, 4).ap([[4, 1], [1, 4]], scalar_offset=nl.full((1, 1), 5, I32))), r"scalar_offset: 5 is not in 0\.\.4"),
    Misuse("priority on trn2", lambda: nisa.dma_copy(dst=s(2, 4), src=h(2, 4), priority=1), r"priority: needs gen4"),
    # Programs and registers.
    Misuse("barrier of one program", lambda: nisa.core_barrier(data=h(2, 4), cores=(0, 1)), r"has 1 program, the instruction needs 2"),
    Misuse("unset register", lambda: nisa.register_store(dst=s(1, 1, dtype=I32), src=nisa.register_alloc()), r"is read before anything was moved into it"),
    Misuse("register of a float", lambda: nisa.register_load(dst=nisa.register_alloc(), src=s(1, 1)), r"src: must be an integer, is float32"),
    Misuse("second axis of a launch", lambda: nl.program_id(1), r"a launch has one axis, got axis 1"),
]  # fmt: skip


@pytest.mark.parametrize("case", TABLE, ids=lambda case: case.name)
def test_mistake_is_named(case):
    def body():
        case.mistake()

    with pytest.raises((RuleError, AttributeError), match=case.message):
        run(body, target=case.target)


def test_names_are_unique():
    assert len({case.name for case in TABLE}) == len(TABLE) >= 40
