"""Gin files with checks: what gin accepts in silence is an error here, with file and line.

``parse`` reads files into bindings that know their place, ``check`` finds what is unknown,
unused or missing, ``build`` makes the objects, ``render`` writes them down again.
"""

from bmojo.config.build import Loaded, load
from bmojo.config.registry import Registry

__all__ = ["Loaded", "Registry", "load"]
