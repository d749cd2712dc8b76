"""The files of Chroma's graph, which are written from memory that was never cleared.

Chroma sets memory for vectors aside and writes all of it, also what no vector has been put in yet: texts and vectors
that the process has long freed, of any store, would lie on the disk, and no rebuild of theirs would find them.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

_HEADER = struct.Struct("<i4Q")  # version, offset, capacity, vectors, bytes a vector
_VERSION = 1


def clear_unused(folder: Path) -> None:
    """Zero what lies beyond the vectors of each graph; Chroma must not be writing meanwhile."""
    for header in folder.glob("*/header.bin"):
        version, _, _, count, width = _HEADER.unpack(header.read_bytes()[: _HEADER.size])
        if version == _VERSION:
            _zero_from(header.with_name("data_level0.bin"), count * width)
            _zero_from(header.with_name("length.bin"), count * 4)


def _zero_from(path: Path, start: int) -> None:
    with open(path, "r+b") as file:
        end = os.fstat(file.fileno()).st_size
        if start < end:
            file.seek(start)
            file.write(bytes(end - start))
            file.flush()
            os.fsync(file.fileno())
