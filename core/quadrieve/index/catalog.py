"""What an index holds, in one SQLite file beside Chroma's: the records by slot, and their words.

Everything in it comes from Chroma and can be made again from there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import Mask
from .records import HASH, RECORD, WITHIN, Flat, Namespace, Record, content_id, from_chroma, namespace_key, to_chroma
from .vectors import Slots

Scores = NDArray[np.float64]

# Rows that a lexical search may score: the rarest words of a query go first, so that an everyday word
# cannot make a search over many records slow.
_ROWS = 6000

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash TEXT NOT NULL, flat TEXT NOT NULL,
    space TEXT NOT NULL, text TEXT NOT NULL, body TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS lexicon USING fts5(
    space, text, content='record', content_rowid='slot', tokenize='unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab(lexicon, row);
CREATE VIRTUAL TABLE temp.query USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE temp.query_word USING fts5vocab(temp, query, instance);
"""


class Entry(NamedTuple):
    """A record and where its vector lies."""

    slot: int
    record: Record


class Catalog:
    """Records by slot and by id, found by their words.

    Not thread-safe: the store that owns it takes turns.

    Args:
        path: The file, or None for memory.
    """

    def __init__(self, path: Path | None) -> None:
        self._db = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("PRAGMA temp_store=MEMORY")
        self._db.executescript(_SCHEMA)
        self.total: int = self._db.execute("SELECT count(*) FROM record").fetchone()[0]

    def close(self) -> None:
        """Write what is pending and let go of the file."""
        self._db.close()

    def state(self, key: str) -> str | None:
        """A word that the store left itself."""
        row = self._db.execute("SELECT value FROM state WHERE key = ?", (key,)).fetchone()
        return None if row is None else row[0]

    def set_state(self, key: str, value: str) -> None:
        """Leave a word."""
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (key, value))

    def flats(self, slots: Sequence[int] | None = None) -> Iterator[tuple[int, Flat]]:
        """Slot and flat metadata of those slots, or of all."""
        if slots is None:
            rows = self._db.execute("SELECT slot, flat FROM record")
        else:
            rows = self._select("SELECT slot, flat FROM record WHERE slot IN (SELECT value FROM json_each(?))", slots)
        for slot, flat in rows:
            yield slot, json.loads(flat)

    def hashes(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Content hash by id, of those that are there."""
        if ids is None:
            return dict(self._db.execute("SELECT id, hash FROM record"))
        return {id: hash for id, _, hash, _ in self._by_id(ids)}

    def slots(self, ids: Sequence[str]) -> dict[str, int]:
        """Slot by id, of those that are there."""
        return {id: slot for id, slot, _, _ in self._by_id(ids)}

    def ids(self, slots: Sequence[int]) -> list[str]:
        """Ids of those slots."""
        rows = self._select("SELECT id FROM record WHERE slot IN (SELECT value FROM json_each(?))", slots)
        return [id for (id,) in rows]

    def keys(self, ids: Sequence[str]) -> dict[str, set[str]]:
        """Metadata keys by id, as Chroma has them."""
        return {id: {*json.loads(flat), HASH, RECORD, WITHIN} for id, _, _, flat in self._by_id(ids)}

    def entries(self, slots: Iterable[int]) -> dict[int, Entry]:
        """Entries by slot."""
        rows = self._select(
            "SELECT slot, id, flat, text, body FROM record WHERE slot IN (SELECT value FROM json_each(?))", list(slots)
        )
        return {
            slot: Entry(slot, from_chroma(id, text, {**json.loads(flat), RECORD: body}))
            for slot, id, flat, text, body in rows
        }

    def put(self, entries: Sequence[Entry], hashes: Mapping[str, str]) -> None:
        """Set what slots hold, all or nothing."""
        rows = []
        for slot, record in entries:
            flat = to_chroma(record, hashes[record.id])
            body = flat.pop(RECORD)
            for key in (HASH, WITHIN):
                flat.pop(key, None)
            packed = json.dumps(flat, ensure_ascii=False, separators=(",", ":"))
            rows.append((slot, record.id, hashes[record.id], packed, space_token(record.namespace), record.text, body))
        with self._transaction():
            self._forget([slot for slot, _ in entries])
            self._db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
            self._db.executemany(
                "INSERT INTO lexicon (rowid, space, text) VALUES (?, ?, ?)", [(row[0], row[4], row[5]) for row in rows]
            )
            self.total += len(rows)

    def delete(self, slots: Sequence[int]) -> None:
        """Empty slots, all or nothing."""
        with self._transaction():
            self._forget(slots)

    def match(self, query: str, n: int, mask: Mask | None, namespace: Namespace | None) -> tuple[Slots, Scores]:
        """The n records that share the rarest words with a query, best first, and their BM25 scores (k1 1.2, b .75).

        Args:
            query: Any text; a word of several parts such as `ERR-4711` is also looked for as a whole.
            n: How many at most.
            mask: Which slots may be found, `[capacity]`; None is any.
            namespace: The only one that the mask lets through, if that is so.
        """
        few = self.total if mask is None else int(mask.sum())
        terms = self._affordable(query, few / max(1, self.total))
        if not terms:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        words = " OR ".join(_quoted(term) for term in terms)
        expression = f"{{text}} : ({words})"
        if namespace is not None:
            expression = f"({{space}} : {_quoted(space_token(namespace))}) AND ({expression})"
        if mask is None:
            sql = "SELECT rowid, rank FROM lexicon WHERE lexicon MATCH ? AND rank MATCH 'bm25(0.0, 1.0)'"
            rows = self._db.execute(f"{sql} ORDER BY rank LIMIT ?", (expression, n)).fetchall()
        else:
            allowed = mask.tobytes()
            self._db.create_function("allowed", 1, allowed.__getitem__, deterministic=True)
            sql = "SELECT rowid, bm25(lexicon, 0.0, 1.0) AS score FROM lexicon WHERE lexicon MATCH ? AND allowed(rowid)"
            rows = self._db.execute(f"{sql} ORDER BY score LIMIT ?", (expression, n)).fetchall()
        if not rows:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        found, ranks = zip(*rows, strict=True)
        return np.array(found, dtype=np.int64), -np.array(ranks)

    def whole(self, query: str) -> float:
        """The BM25 score that a record of average length with every word of the query once would have."""
        words = {word for part in self._words(query) for word in part}
        frequencies = self._frequencies(list(words))
        return sum(_idf(frequencies.get(word, 0), self.total) for word in words)

    def _affordable(self, query: str, share: float) -> list[str]:
        """The rarest words of a query, as many as may be scored, and its compound words."""
        parts = self._words(query)
        frequencies = self._frequencies([word for part in parts for word in part])
        chosen: list[str] = []
        left = _ROWS / max(share, 1e-9)
        for word, count in sorted(frequencies.items(), key=lambda item: item[1]):
            left -= count
            if left < 0:
                break
            chosen.append(word)
        compounds = [" ".join(part) for part in parts if len(part) > 1 and set(part) & set(chosen)]
        return chosen + list(dict.fromkeys(compounds))

    def _words(self, query: str) -> list[list[str]]:
        """The words of each part of a query that spaces set apart, cut exactly as the lexicon cuts its texts."""
        parts = query.split()
        words: list[list[str]] = [[] for _ in parts]
        self._db.execute("BEGIN")
        try:
            self._db.executemany("INSERT INTO temp.query (rowid, text) VALUES (?, ?)", enumerate(parts))
            found = self._db.execute("SELECT doc, offset, term FROM temp.query_word").fetchall()
        finally:
            self._db.execute("ROLLBACK")
        for part, _, word in sorted(found):
            words[part].append(word)
        return words

    def _frequencies(self, words: Sequence[str]) -> dict[str, int]:
        """Records by word, of the words that there are."""
        sql = "SELECT term, doc FROM vocabulary WHERE term = ?"
        rows = (self._db.execute(sql, (word,)).fetchone() for word in dict.fromkeys(words))
        return dict(row for row in rows if row is not None)

    def _forget(self, slots: Sequence[int]) -> None:
        old = self._select(
            "SELECT slot, space, text FROM record WHERE slot IN (SELECT value FROM json_each(?))", slots
        ).fetchall()
        self._db.executemany("INSERT INTO lexicon (lexicon, rowid, space, text) VALUES ('delete', ?, ?, ?)", old)
        self._db.executemany("DELETE FROM record WHERE slot = ?", [(slot,) for slot, *_ in old])
        self.total -= len(old)

    def _by_id(self, ids: Sequence[str]) -> Iterator[tuple[str, int, str, str]]:
        """Id, slot, hash and flat metadata of those that are there."""
        plain = [id for id in ids if "\x00" not in id]
        yield from self._select(
            "SELECT id, slot, hash, flat FROM record WHERE id IN (SELECT value FROM json_each(?))", plain
        )
        for id in set(ids).difference(plain):  # SQLite's JSON ends a string at NUL
            yield from self._db.execute("SELECT id, slot, hash, flat FROM record WHERE id = ?", (id,))

    def _select(self, sql: str, values: Sequence[Any]) -> sqlite3.Cursor:
        return self._db.execute(sql, (json.dumps(list(values)),))

    def _transaction(self) -> _Transaction:
        return _Transaction(self._db)


class _Transaction:
    """All or nothing."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def __enter__(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._db.execute("COMMIT" if kind is None else "ROLLBACK")


def space_token(namespace: Namespace) -> str:
    """A word that stands for a namespace, whatever characters are in it."""
    return f"ns{content_id(namespace_key(namespace))}"


def _quoted(term: str) -> str:
    return f'"{term}"'


def _idf(count: int, total: int) -> float:
    """As FTS5's bm25() has it."""
    return max(1e-6, float(np.log((total - count + 0.5) / (count + 0.5)))) if count < total else 1e-6
