"""B'MOJO: sequence models that join eidetic, fading and window memory in one layer."""

__version__ = "0.2.0"
