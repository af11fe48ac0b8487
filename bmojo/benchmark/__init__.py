"""Benchmarks of speed and memory.

A suite (:mod:`~bmojo.benchmark.operations`, ``steps``, ``decoding``, ``starts``, ``peers``) makes
cases. Each is checked before any is timed. Then all cases take turns, together with matrix products
and copies that calibrate the machine, and every sample is kept beside the medians.
"""
