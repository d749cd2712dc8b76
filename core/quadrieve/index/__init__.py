"""One Chroma collection that knows its embedder: write, search, erase."""

from .records import Hit, Record
from .index import Index  # isort: skip

__all__ = ["Hit", "Index", "Record"]
