"""One Chroma collection that knows its embedder: write, search, erase."""

from .index import Index
from .records import Hit, Record

__all__ = ["Hit", "Index", "Record"]
