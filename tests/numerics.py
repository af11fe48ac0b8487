"""Comparison of numbers in tests."""

from bmojo.testing import TOLERANCE, assert_close, relative_rms

__all__ = ["TOLERANCE", "assert_close", "relative_rms"]
