"""Gin files with guard rails: what gin accepts without a word stops here, with its line.

``parse`` reads files into bindings that know their place, ``check`` finds what is unknown,
unused or missing, ``build`` lets gin make the objects, ``render`` writes them down again.
"""

from bmojo.config.build import Loaded, load
from bmojo.config.registry import Registry

__all__ = ["Loaded", "Registry", "load"]
