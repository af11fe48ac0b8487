"""Kernels in C++ for CPUs, which XLA calls: the scans and attentions of :mod:`bmojo.ops`."""
