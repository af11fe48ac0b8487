"""Measurements of speed and memory that can be doubted and repeated.

A suite (``operations``, ``steps``, ``lengths``, ``decoding``, ``starts``, ``peers``) makes cases.
Each is checked before any is timed; then all take turns, together with a calibration of the
machine, and everything measured is kept beside what is concluded from it.
"""
