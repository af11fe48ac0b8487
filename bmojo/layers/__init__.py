"""Mixers: modules with parameters and a state, on the pure functions of `bmojo.ops`."""
