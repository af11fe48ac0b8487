"""Kernels for TPUs and GPUs, written in Pallas: the selective scan and the memory attention.

Status: interpreted and lowered for TPU (to Mosaic) and for GPU (to Triton); has not run on a
device, and neither compiler's later stages have seen it. Speed and the sizes of the tiles are
therefore unmeasured guesses.

On a CPU the kernels run only where they are asked for by name, in Pallas' interpreter, which is
slow and meant for tests.

A kernel is opaque to XLA's partitioner. Under ``jax.jit`` over several devices it must be
called inside ``jax.shard_map`` with all axes of the mesh manual and ``check_vma=False``;
:func:`bmojo.ops.axes.on_each_device` does so.
"""
