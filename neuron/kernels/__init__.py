"""Kernels of B'MOJO's layer, in the part of NKI that its releases 0.3 to 0.7 share.

Time is the last axis of operands that an instruction runs along; values of the attention and
operands of state-space duality, which is matmuls, have it first, as ``bmojo.ops`` has them. Entry
points work on one program and, launched as ``kernel[2]``, on the two cores of a logical core. None
has run on hardware; docs/trainium.md tells what was checked.
"""
