"""Preflight: checks of the machine and of the compiled training step before a run."""
