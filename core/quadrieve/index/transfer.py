"""Records as JSON lines: one record a line, read and written one after the other."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..embedder import Vectors, check_text
from ..errors import InputError
from .records import Record, check_metadata

FORMAT = 1


def write_lines(path: str | os.PathLike[str], records: Iterable[Record], fingerprint: str) -> int:
    """Write records to a file, all or nothing; returns how many there were.

    A line has `id`, `text`, `metadata`, the `format`, and where they are not empty `namespace`, `fields` and
    `payload`; a record with a vector also has it (base64 of little-endian float32) with its embedder's `fingerprint`.
    """
    target = Path(path).expanduser()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}")
    count = 0
    try:
        with open(staged, "w", encoding="utf-8") as file:
            for record in records:
                file.write(json.dumps(_to_line(record, fingerprint), ensure_ascii=False) + "\n")
                count += 1
        staged.replace(target)
    finally:
        staged.unlink(missing_ok=True)
    return count


def read_lines(path: str | os.PathLike[str], fingerprint: str) -> Iterator[Record]:
    """Read records from a file.

    Args:
        path: The file.
        fingerprint: Of the embedder that will search them; vectors of another one are left out.

    Raises:
        InputError: If the file is not there, or a line is no record; with its number.
    """
    source = Path(path).expanduser()
    if not source.is_file():
        raise InputError(f"{str(source)!r} is not a file; expected one that export() wrote.")
    with open(source, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                try:
                    yield _from_line(json.loads(line), fingerprint)
                except (ValueError, KeyError, TypeError) as error:
                    raise InputError(f"Line {number} of {str(source)!r} is no record: {error}.") from error


def _to_line(record: Record, fingerprint: str) -> dict[str, Any]:
    line: dict[str, Any] = {"id": record.id, "text": record.text, "metadata": record.metadata, "format": FORMAT}
    optional = {"namespace": list(record.namespace), "fields": dict(record.fields), "payload": record.payload}
    line |= {key: value for key, value in optional.items() if value not in (None, [], {})}
    if record.vector is not None:
        packed = np.asarray(record.vector, dtype="<f4").tobytes()
        line |= {"vector": base64.b64encode(packed).decode(), "fingerprint": fingerprint}
    return line


def _from_line(line: Any, fingerprint: str) -> Record:
    if not isinstance(line, dict):
        raise TypeError("expected an object")
    if line.get("format", FORMAT) != FORMAT:
        raise ValueError(f"format {line['format']!r}, this version reads {FORMAT}")
    vector: Vectors | None = None
    if "vector" in line and line.get("fingerprint") == fingerprint:
        vector = np.frombuffer(base64.b64decode(line["vector"]), dtype="<f4").astype(np.float32)
    return Record(
        check_text(line["id"], "id"),
        check_text(line["text"], "text"),
        check_metadata(line.get("metadata")),
        line.get("payload"),
        line.get("fields", {}),
        tuple(line.get("namespace", ())),
        vector,
    )
