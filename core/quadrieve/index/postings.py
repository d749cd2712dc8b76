"""Which records hold a word and how often, in memory once it was asked for, so that scoring is array arithmetic.

SQLite keeps the words, cuts texts into them and finds phrases. Its own `bm25()` takes microseconds for each row and
word, which is 20 ms for a question of 25 words over 100,000 records; the same sum over arrays takes 2 ms.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .columns import Mask
from .vectors import Slots

Scores = NDArray[np.float64]

K1, B = 1.2, 0.75

_MOST = 20_000_000  # rows in memory, 8 bytes each
_FEW = 64  # changed records for which it is quicker to mend what is in memory than to read it again

_SCHEMA = """
CREATE VIRTUAL TABLE IF NOT EXISTS vocabulary USING fts5vocab(lexicon, row);
CREATE VIRTUAL TABLE IF NOT EXISTS occurrence USING fts5vocab(lexicon, instance);
"""


class Holders(NamedTuple):
    """The records that hold a word, and how often they do."""

    slots: NDArray[np.int32]
    counts: NDArray[np.float32]


class Postings:
    """The words of the table `lexicon` by what holds them.

    Args:
        db: Where the table is.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        db.executescript(_SCHEMA)
        self.clear()

    def clear(self) -> None:
        """Forget what is in memory."""
        self._holders: dict[str, Holders] = {}
        self._frequencies: dict[str, int] = {}
        self._lengths: NDArray[np.float32] | None = None
        self._rows = 0

    def frequency(self, word: str) -> int:
        """How many records hold a word."""
        if word in self._holders:
            return len(self._holders[word].slots)
        if word not in self._frequencies:
            row = self._db.execute("SELECT doc FROM vocabulary WHERE term = ?", (word,)).fetchone()
            if row is None:
                return 0
            self._frequencies[word] = row[0]
        return self._frequencies[word]

    def score(
        self, words: Sequence[str], phrases: Sequence[str], mask: Mask | None, total: int
    ) -> tuple[Slots, Scores]:
        """The records that hold any of the words, and their BM25 (k1 1.2, b .75), in no order.

        Args:
            words: Different words.
            phrases: Words in a row, apart by spaces; each counts as one more word, which a record holds once.
            mask: Which slots may be found, `[capacity]`; None is any.
            total: How many records there are.
        """
        holders = [*map(self._holders_of, words), *map(self._phrase_holders, phrases)]
        if sum(len(some.slots) for some in holders) == 0:
            return np.zeros(0, dtype=np.int64), np.zeros(0)
        slots = np.concatenate([some.slots for some in holders])
        counts = np.concatenate([some.counts for some in holders])
        rarity = np.repeat(
            np.array([idf(len(some.slots), total) for some in holders], dtype=np.float32),
            [len(some.slots) for some in holders],
        )
        if mask is not None:
            kept = mask[slots]
            slots, counts, rarity = slots[kept], counts[kept], rarity[kept]
        lengths = self._all_lengths()
        average = float(lengths.sum(dtype=np.float64)) / max(1, total)
        shares = rarity * counts * np.float32(K1 + 1) / (counts + K1 * (1 - B + B / average * lengths[slots]))
        sums = np.asarray(np.bincount(slots, shares), dtype=np.float64)
        found: Slots = np.flatnonzero(sums)
        return found, sums[found]

    def holders(self, words: Sequence[str]) -> Slots:
        """The records that hold those words in a row."""
        found = self._holders_of(words[0]) if len(words) == 1 else self._phrase_holders(" ".join(words))
        return found.slots.astype(np.int64)

    def in_use(self, changes: int) -> bool:
        """Whether memory is to be mended after so many changes; after many, it is emptied instead."""
        if changes > _FEW:
            self.clear()
        return self._lengths is not None

    def replace(self, before: Mapping[int, Sequence[str]], after: Mapping[int, Sequence[str]]) -> None:
        """Know that slots hold other words now.

        Args:
            before: The words that they held, by slot.
            after: The words that they hold.
        """
        self._frequencies.clear()
        for slot, words in before.items():
            for word in set(words) & self._holders.keys():
                slots, counts = self._holders[word]
                kept = slots != slot
                self._holders[word] = Holders(slots[kept], counts[kept])
            self._set_length(slot, 0)
        for slot, words in after.items():
            for word, count in Counter(words).items():
                if word in self._holders:
                    slots, counts = self._holders[word]
                    self._holders[word] = Holders(
                        np.append(slots, np.int32(slot)), np.append(counts, np.float32(count))
                    )
            self._set_length(slot, len(words))

    def _holders_of(self, word: str) -> Holders:
        holders = self._holders.get(word)
        if holders is None:
            # One string of numbers is read four times as fast as rows of one number each.
            (found,) = self._db.execute("SELECT group_concat(doc) FROM occurrence WHERE term = ?", (word,)).fetchone()
            slots, counts = np.unique(np.fromstring(found or "", dtype=np.int32, sep=","), return_counts=True)
            holders = Holders(slots, counts.astype(np.float32))
            self._rows += len(slots)
            if self._rows > _MOST:
                self._holders.clear()
                self._rows = len(slots)
            self._holders[word] = holders
            self._frequencies.pop(word, None)
        return holders

    def _phrase_holders(self, phrase: str) -> Holders:
        found = self._db.execute("SELECT rowid FROM lexicon WHERE lexicon MATCH ?", (f'"{phrase}"',)).fetchall()
        slots = np.array(found, dtype=np.int32).ravel()
        return Holders(slots, np.ones(len(slots), dtype=np.float32))

    def _all_lengths(self) -> NDArray[np.float32]:
        """Words by slot, `[capacity]`."""
        if self._lengths is None:
            rows = self._db.execute("SELECT id, sz FROM lexicon_docsize").fetchall()
            self._lengths = np.zeros(max((slot for slot, _ in rows), default=0) + 1, dtype=np.float32)
            for slot, sizes in rows:
                self._lengths[slot] = _varint(sizes)
        return self._lengths

    def _set_length(self, slot: int, length: int) -> None:
        if self._lengths is None:
            return
        if slot >= len(self._lengths):
            missing = max(1024, slot + 1 - len(self._lengths))
            self._lengths = np.concatenate([self._lengths, np.zeros(missing, dtype=np.float32)])
        self._lengths[slot] = length


def idf(frequency: int, total: int) -> float:
    """How much it tells that a record holds a word that so many of all hold; never negative.

    Example:
        >>> round(idf(1, 1000), 2), idf(900, 1000)
        (6.5, 1e-06)
    """
    return max(1e-6, float(np.log((total - frequency + 0.5) / (frequency + 0.5)))) if frequency < total else 1e-6


def _varint(packed: bytes) -> int:
    """A number as SQLite packs it: seven bits a byte, the highest first."""
    number = 0
    for byte in packed:
        number = number << 7 | byte & 127
    return number
