"""The memory report: what a model remembers while it reads a text."""
