"""Kernels against what they must agree with, at a grid of sizes; see ``neuron.verify``.

A module here gives ``CHECKS``, a tuple of :class:`~neuron.checks.check.Check`, and may give
``COSTS``, a tuple of :class:`~neuron.checks.check.Cost`. To register one, name it in ``MODULES``.
"""

MODULES = ("innovation", "eidetic", "scan", "ssd", "convolution", "attention", "layer_step")
"""Modules of this package that hold checks."""
