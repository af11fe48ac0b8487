"""A model and a store: reading with memory on disk, outside the compiled step."""

from bmojo.session.admission import Admission
from bmojo.session.layers import StoredLayer, identify, largest_cell, stored_layers
from bmojo.session.session import Piece, Session, Use

__all__ = [
    "Admission",
    "Piece",
    "Session",
    "StoredLayer",
    "Use",
    "identify",
    "largest_cell",
    "stored_layers",
]
