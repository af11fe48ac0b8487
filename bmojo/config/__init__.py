"""Gin files with checks: what gin accepts in silence is an error here, with file and line.

``parse`` reads files into bindings that know their place, ``check`` finds unknown, unused and
missing ones, ``build`` makes the objects and their text.
"""

from bmojo.config.build import Loaded, load
from bmojo.config.registry import Registry

__all__ = ["Loaded", "Registry", "load"]
