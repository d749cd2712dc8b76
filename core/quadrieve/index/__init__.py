"""One Chroma collection that knows its embedder: write, search, erase."""

from .fusion import Fusion
from .index import Index
from .records import Hit, Record

__all__ = ["Fusion", "Hit", "Index", "Record"]
