"""A folder of files as a knowledge base that is kept in step with it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadrieve import InputError, KnowledgeBase
from quadrieve.index.filters import read_filter
from quadrieve.index.records import content_id

from .files import Passage, UnreadableError, read, readable

_TOGETHER = 256  # passages that are encoded together at least


@dataclass
class Sync:
    """What a run found and did.

    Attributes:
        added: Files that were new.
        changed: Files whose content was another.
        removed: Files that are gone.
        unchanged: How many were left alone.
        failed: For each file that could not be read, why.
        passages: How many passages were written.
    """

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    unchanged: int = 0
    failed: dict[str, str] = field(default_factory=dict)
    passages: int = 0


def sync(kb: KnowledgeBase, folder: Path, *, root: str | None = None, progress: bool = False) -> Sync:
    """Bring a knowledge base in step with a folder: only files that are new, changed or gone cost anything.

    A passage's metadata says its `source`, the file's path in the folder, and where in the file it stands. A run
    that is stopped leaves whole files behind, and the next one goes on.

    Args:
        kb: Holds any number of folders.
        folder: Of text, Markdown, HTML and PDF.
        root: Names the folder in the knowledge base; its full path if not given.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: If it is no folder.
    """
    from tqdm.auto import tqdm

    if not folder.is_dir():
        raise InputError(f"{str(folder)!r} is no folder; name one with text, Markdown, HTML or PDF files in it.")
    root = root or str(folder.resolve())
    firsts = kb.index.get(filter=read_filter({"root": root, "part": 0}))
    known = {record.metadata["source"]: record.metadata["file"] for record in firsts}
    there = {path.relative_to(folder).as_posix(): path for path in readable(folder)}
    done = Sync(removed=sorted(known.keys() - there.keys()))
    for source in done.removed:
        kb.delete(where={"root": root, "source": source})
    waiting: dict[str, tuple[str, list[Passage]]] = {}
    for source, path in tqdm(there.items(), unit="file", desc="Indexing", disable=not progress):
        try:
            file = hashlib.sha256(path.read_bytes()).hexdigest()
            if known.get(source) == file:
                done.unchanged += 1
                continue
            waiting[source] = file, read(path)
        except (UnreadableError, OSError) as error:
            done.failed[source] = str(error)
            continue
        (done.changed if source in known else done.added).append(source)
        if sum(len(passages) for _, passages in waiting.values()) >= _TOGETHER:
            done.passages += _write(kb, root, waiting)
            waiting.clear()
    done.passages += _write(kb, root, waiting)
    return done


def cite(metadata: Mapping[str, Any]) -> str:
    """Where a passage stands, from its metadata.

    Example:
        >>> cite({"source": "manual.pdf", "page": 3})
        'manual.pdf, page 3'
    """
    page = metadata.get("page")
    parts = [metadata["source"], f"page {page}" if page else "", metadata.get("heading", ""), metadata.get("title", "")]
    return ", ".join(filter(None, parts))


def _write(kb: KnowledgeBase, root: str, files: Mapping[str, tuple[str, list[Passage]]]) -> int:
    """Write files whole: the first passage of each says that the file is there, so it is written last."""
    later: dict[str, tuple[str, dict[str, Any]]] = {}
    firsts: dict[str, tuple[str, dict[str, Any]]] = {}
    for source, (file, passages) in files.items():
        for part, passage in enumerate(passages):
            own = {"root": root, "source": source, "file": file, "part": part}
            entry = passage.text, {**passage.where, **own}
            (later if part else firsts)[content_id(root, source, part)] = entry
    for entries in filter(None, (later, firsts)):
        kb.add([text for text, _ in entries.values()], list(entries), [metadata for _, metadata in entries.values()])
    for source, (file, _) in files.items():
        kb.delete(where={"root": root, "source": source, "file": {"$ne": file}})
    return len(later) + len(firsts)
