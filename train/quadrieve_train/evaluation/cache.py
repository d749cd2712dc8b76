"""Vectors kept by content, so that a second evaluation encodes nothing."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from quadrieve import RoleView
from quadrieve.embedder import Side, Vectors


class VectorCache:
    """An SQLite file of float32 vectors by what was encoded (weights, prefix and text)."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(folder / "vectors.sqlite3", timeout=60.0)
        self._database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, row BLOB) WITHOUT ROWID")

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    def get(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """Vectors by key, of the keys that are known."""
        found: dict[bytes, Vectors] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ", ".join("?" * len(part))
            rows = self._database.execute(
                f"SELECT key, row FROM vectors WHERE key IN ({marks})",  # noqa: S608 - only question marks
                part,
            )
            found |= {key: np.frombuffer(row, dtype=np.float32) for key, row in rows}
        return found

    def put(self, keys: Sequence[bytes], rows: Vectors) -> None:
        """Keep vectors `[n, dim]`."""
        pairs = [(key, row.astype(np.float32).tobytes()) for key, row in zip(keys, rows, strict=True)]
        with self._database:
            self._database.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", pairs)


class CachedView:
    """A view that encodes each text once, over all runs that share the cache."""

    def __init__(self, view: RoleView, cache: VectorCache, *, progress: bool = False) -> None:
        self._view, self._cache, self._progress = view, cache, progress
        embedder = view.embedder
        self._weights = embedder.fingerprint("", "") + str(embedder._dtype)

    @property
    def fingerprint(self) -> str:
        """The view's."""
        return self._view.fingerprint

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self._view.dim

    @property
    def word_rate(self) -> float | None:
        """The view's."""
        return self._view.word_rate

    def explain(self, text: str, side: Side = "query") -> str:
        """The exact string that is encoded."""
        return self._view.explain(text, side)

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`, in input order."""
        return self._embed(texts, "query")

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`, in input order."""
        return self._embed(texts, "key")

    def _embed(self, texts: Sequence[str], side: Side) -> Vectors:
        keys = [self._key(self.explain(text, side)) for text in texts]
        known = self._cache.get(list(dict.fromkeys(keys)))
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in known}
        embed = self._view.embed_queries if side == "query" else self._view.embed_keys
        entries = list(missing.items())
        for start in range(0, len(entries), 2048):  # kept part by part, so that a stopped run goes on
            part = entries[start : start + 2048]
            rows = embed([text for _, text in part], progress=self._progress and len(entries) > 256)
            self._cache.put([key for key, _ in part], rows)
            known |= dict(zip([key for key, _ in part], rows, strict=True))
        return np.array([known[key] for key in keys], dtype=np.float32).reshape(len(keys), self.dim)

    def _key(self, text: str) -> bytes:
        return hashlib.sha256(f"{self._weights}\0{text}".encode()).digest()
