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

from .columns import Mask
from .names import names_in
from .postings import Postings, Scores, idf
from .records import NAMESPACE, RECORD, Flat, Record, above, from_chroma, to_chroma
from .vectors import Slots

# Rows that a lexical search may score: the rarest words of a query go first, so that everyday words
# cannot make a search over very many records slow.
_ROWS = 50_000

_NAME = 1000  # a word of several parts is looked for as a whole if so many records or fewer hold one of the parts

_FEW_HOLD = 3  # a name that more records hold names none of them
_ONE_IN = 1000  # nor does a mere capitalised word that more of all records hold

_SCHEMA = """
CREATE TABLE IF NOT EXISTS state (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS record (
    slot INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, hash TEXT NOT NULL, flat TEXT NOT NULL,
    text TEXT NOT NULL, body TEXT NOT NULL
);
CREATE VIRTUAL TABLE IF NOT EXISTS lexicon USING fts5(
    text, content='record', content_rowid='slot', tokenize='unicode61 remove_diacritics 2'
);
CREATE VIRTUAL TABLE temp.query USING fts5(text, content='', tokenize='unicode61 remove_diacritics 2');
CREATE VIRTUAL TABLE temp.query_word USING fts5vocab(temp, query, instance);
"""


class Entry(NamedTuple):
    """A record and where its vector lies."""

    slot: int
    record: Record


class Match(NamedTuple):
    """What a lexical search found, best first.

    Attributes:
        slots: Where the records are.
        scores: Their BM25.
        whole: The BM25 of a record of average length that has every word of the query once.
        named: Records that hold a name of the query (see `names_in`) that hardly any other record holds.
        shares: How much of the query those names are, by what its words tell: in [0, 1] for each of `named`.
    """

    slots: Slots
    scores: Scores
    whole: float
    named: Slots
    shares: Scores


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
        self._postings = Postings(self._db)
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
        flats = {id: json.loads(flat) for id, _, _, flat in self._by_id(ids)}
        return {id: {*flat, RECORD, *above(tuple(json.loads(flat[NAMESPACE])))} for id, flat in flats.items()}

    def entries(self, slots: Iterable[int]) -> dict[int, Entry]:
        """Entries by slot."""
        rows = self._select(
            "SELECT slot, id, flat, text, body FROM record WHERE slot IN (SELECT value FROM json_each(?))", list(slots)
        )
        return {
            slot: Entry(slot, from_chroma(id, text, {**json.loads(flat), **({RECORD: body} if body else {})}))
            for slot, id, flat, text, body in rows
        }

    def put(self, entries: Sequence[Entry], hashes: Mapping[str, str]) -> None:
        """Set what slots hold, all or nothing."""
        rows = []
        for slot, record in entries:
            flat = to_chroma(record)
            body = flat.pop(RECORD, "")
            for key in above(record.namespace):
                del flat[key]
            packed = json.dumps(flat, ensure_ascii=False, separators=(",", ":"))
            rows.append((slot, record.id, hashes[record.id], packed, record.text, body))
        with self._transaction():
            before = self._forget([slot for slot, _ in entries])
            self._db.executemany("INSERT INTO record VALUES (?, ?, ?, ?, ?, ?)", rows)
            texts = {slot: record.text for slot, record in entries}
            self._db.executemany("INSERT INTO lexicon (rowid, text) VALUES (?, ?)", texts.items())
        self.total += len(rows) - len(before)
        self._reword(before, texts)

    def delete(self, slots: Sequence[int]) -> None:
        """Empty slots, all or nothing."""
        with self._transaction():
            before = self._forget(slots)
        self.total -= len(before)
        self._reword(before, {})

    def match(self, query: str, n: int, mask: Mask | None) -> Match:
        """The n records that share the most telling words with a query, and those that it names.

        Args:
            query: Any text; a word of several parts such as `ERR-4711` is also looked for as a whole.
            n: How many at most, those named apart.
            mask: Which slots may be found, `[capacity]`; None is any.
        """
        texts = query.split()
        parts = self._words(texts)
        frequencies = {word: self._postings.frequency(word) for part in parts for word in part}
        whole = sum(idf(count, self.total) for count in frequencies.values())
        names = [
            " ".join(part) for part in parts if len(part) > 1 and 0 < min(frequencies[word] for word in part) <= _NAME
        ]
        slots, scores = self._postings.score(_affordable(frequencies), list(dict.fromkeys(names)), mask, self.total)
        named, shares = self._named(texts, parts, frequencies, whole)
        if len(slots) > n:
            best = np.union1d(np.argpartition(scores, -n)[-n:], np.flatnonzero(np.isin(slots, named)))
            slots, scores = slots[best], scores[best]
        order = np.lexsort((slots, -scores))
        return Match(slots[order], scores[order], whole, named, shares)

    def _named(
        self, texts: Sequence[str], parts: Sequence[Sequence[str]], frequencies: Mapping[str, int], whole: float
    ) -> tuple[Slots, Scores]:
        """The records that hold a name which hardly any other record holds, and the names' share of the query."""
        slots, shares = [np.zeros(0, dtype=np.int64)], [np.zeros(0)]
        for part, kind in zip(parts, names_in(texts), strict=True):
            most = min(_FEW_HOLD, self.total // _ONE_IN) if kind == "capitalised" else _FEW_HOLD
            if kind and part and (len(part) > 1 or 0 < frequencies[part[0]] <= most):
                holders = self._postings.holders(part)
                if len(holders) <= most:
                    slots.append(holders)
                    told = sum(idf(frequencies[word], self.total) for word in set(part))
                    shares.append(np.full(len(holders), told / max(whole, 1e-9)))
        named, place = np.unique(np.concatenate(slots), return_inverse=True)
        return named, np.asarray(np.bincount(place, np.concatenate(shares), minlength=len(named)), dtype=np.float64)

    def _words(self, texts: Sequence[str]) -> list[list[str]]:
        """The words of each text in their order, cut exactly as the lexicon cuts its texts."""
        words: list[list[str]] = [[] for _ in texts]
        self._db.execute("BEGIN")
        try:
            self._db.executemany("INSERT INTO temp.query (rowid, text) VALUES (?, ?)", enumerate(texts))
            found = self._db.execute("SELECT doc, offset, term FROM temp.query_word").fetchall()
        finally:
            self._db.execute("ROLLBACK")
        for text, _, word in sorted(found):
            words[text].append(word)
        return words

    def _reword(self, before: Mapping[int, str], after: Mapping[int, str]) -> None:
        """Let the postings know which texts slots held and hold."""
        if self._postings.in_use(len(before) + len(after)):
            cut = self._words([*before.values(), *after.values()])
            self._postings.replace(
                dict(zip(before, cut[: len(before)], strict=True)), dict(zip(after, cut[len(before) :], strict=True))
            )

    def _forget(self, slots: Sequence[int]) -> dict[int, str]:
        """Empty slots; returns the texts that they held."""
        old = dict(self._select("SELECT slot, text FROM record WHERE slot IN (SELECT value FROM json_each(?))", slots))
        self._db.executemany("INSERT INTO lexicon (lexicon, rowid, text) VALUES ('delete', ?, ?)", old.items())
        self._db.executemany("DELETE FROM record WHERE slot = ?", [(slot,) for slot in old])
        return old

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


def _affordable(frequencies: Mapping[str, int]) -> list[str]:
    """The rarest of those words, as many as may be scored and at least one."""
    chosen: list[str] = []
    left = _ROWS
    for word, count in sorted(frequencies.items(), key=lambda item: item[1]):
        left -= count
        if count and (left >= 0 or not chosen):
            chosen.append(word)
    return chosen
