"""One Chroma database that this process owns, with what finds its records exactly and by their words."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from itertools import chain, count
from pathlib import Path

import numpy as np

from ..embedder import Vectors
from .catalog import Catalog, Entry, Match
from .collection import SYNC, StampedCollection
from .columns import Columns, Mask
from .filters import Filter
from .fusion import Scores
from .graph_files import clear_unused
from .location import close_client
from .ranking import Candidate, Query
from .records import Record
from .vectors import Slots, VectorFile

_POOL = 100  # candidates of each ranker that are fused
_PAGE = 5000


class Generation:
    """Records of one embedder in one folder.

    Chroma holds the truth. Beside it lie a catalog (SQLite: records by slot, and their words) and the vectors (one
    file by slot), which make every search exact. Both are made from Chroma again where they do not agree with it,
    as after a crash or when a server wrote to the database.

    Args:
        collection: The Chroma side.
        folder: Where the other two lie, or None for memory.

    Attributes:
        pristine: Nothing was ever deleted from it, so that no byte of it is of anything but its records.
    """

    def __init__(self, collection: StampedCollection, folder: Path | None, dim: int) -> None:
        self.collection = collection
        self._folder = folder
        self._lock = threading.RLock()
        self._catalog = Catalog(folder and folder / "catalog.sqlite3")
        self._vectors = VectorFile(folder and folder / "vectors.f32", dim)
        self._columns = Columns()
        self._alive: Mask = np.zeros(0, dtype=bool)
        self._clean = False
        self._torn = False
        self.pristine = self._catalog.state("pristine") is None
        self._open()

    @property
    def batch_size(self) -> int:
        """Records that may be written at a time."""
        return self.collection.batch_size

    def put(self, records: Sequence[Record], hashes: Mapping[str, str], vectors: Vectors) -> None:
        """Write records, each as a whole."""
        with self._lock, self._changing():
            ids = [record.id for record in records]
            self.collection.put(records, vectors, self._catalog.keys(ids))
            if self._folder is not None and self._catalog.total == 0 and len(records) < SYNC:
                clear_unused(self._folder)  # its files were made just now, and stay as they are for a while
            self._enter(records, hashes, vectors)

    def hashes(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Content hash by id, of those ids that are there, or of all."""
        with self._lock:
            return self._catalog.hashes(ids)

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all records, or of those that match."""
        with self._lock:
            return self._catalog.ids(self._slots(filter, None).tolist())

    def get(
        self, ids: Sequence[str] | None = None, filter: Filter | None = None, *, vectors: bool = False
    ) -> list[Record]:
        """Records by id, by filter, or all."""
        with self._lock:
            slots = self._slots(filter, ids)
            entries = self._catalog.entries(slots.tolist())
            if not vectors:
                return [entries[slot].record for slot in slots.tolist()]
            rows = self._vectors.rows(slots)
            return [_with_vector(entries[slot].record, row) for slot, row in zip(slots.tolist(), rows, strict=True)]

    def delete(self, ids: Sequence[str]) -> None:
        """Take records away; the rows of their vectors are emptied, the rest of them goes with a rebuild."""
        with self._lock:
            slots = list(self._catalog.slots(ids).values())
            if slots:
                if self.pristine:
                    self._catalog.set_state("pristine", "no")
                    self.pristine = False
                with self._changing():
                    self.collection.delete(ids)
                    self._leave(slots)

    def count(self, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        with self._lock:
            return len(self._slots(filter, None))

    def rank(self, query: Query) -> list[Candidate]:
        """The candidates for a query, best first; none is missed."""
        with self._lock:
            slots = self._slots(query.filter, query.ids)
            if len(slots) == 0:
                return []
            words = query.mode != "dense" and query.text is not None
            pool = max(query.n, _POOL) if words else query.n
            rankings: dict[str, Slots] = {}
            match: Match | None = None
            if query.mode != "lexical":
                rankings["dense"], _ = self._vectors.nearest(query.vector, pool, slots)
            if words and query.text is not None:
                mask = None if query.filter is None and query.ids is None else self._as_mask(slots)
                match = self._catalog.match(query.text, pool, mask)
                rankings["lexical"] = match.slots
            union = np.unique(np.concatenate(list(rankings.values())))
            cosines = np.clip(self._vectors.rows(union) @ query.vector, -1.0, 1.0).astype(np.float64)
            relevance = cosines
            if match is not None:
                relevance = np.zeros(len(union))
                relevance[np.searchsorted(union, match.slots)] = match.scores
                if query.mode == "hybrid":
                    named = np.zeros(len(union))
                    found = np.isin(match.named, union)
                    named[np.searchsorted(union, match.named[found])] = match.shares[found]
                    cut = len(match.slots) >= pool
                    relevance = query.fusion.scores(cosines, relevance, named, whole=match.whole, cut=cut)
            order = np.argsort(-relevance, kind="stable")
            if query.min_score is not None:
                order = order[cosines[order] >= query.min_score]
            return self._candidates(union, cosines, relevance, order[: query.n], rankings)

    def close(self) -> None:
        """Write what is pending and let go of the files; memory is given back."""
        with self._lock:
            if self._folder is None:
                self.collection.drop()
            else:
                close_client(self.collection.client)  # Chroma writes on until then
                clear_unused(self._folder)
            self.settle()
            self._catalog.close()
            self._vectors.close()

    def settle(self) -> None:
        """Say on disk that the catalog knows what Chroma knows."""
        with self._lock:
            if not self._clean and not self._torn:
                self._vectors.flush()
                self._catalog.set_state("chroma", self._chroma_stamp())
                self._clean = True

    def _candidates(
        self, union: Slots, cosines: Scores, relevance: Scores, order: Slots, rankings: Mapping[str, Slots]
    ) -> list[Candidate]:
        ranks = {name: {slot: rank for rank, slot in enumerate(found.tolist(), 1)} for name, found in rankings.items()}
        slots = union[order]
        entries = self._catalog.entries(slots.tolist())
        rows = self._vectors.rows(slots)
        return [
            Candidate(
                entries[slot].record,
                row,
                float(cosines[i]),
                float(relevance[i]),
                {name: places[slot] for name, places in ranks.items() if slot in places},
            )
            for slot, row, i in zip(slots.tolist(), rows, order.tolist(), strict=True)
        ]

    def _slots(self, filter: Filter | None, ids: Sequence[str] | None) -> Slots:
        mask = self._alive
        if filter is not None:
            mask = mask & self._columns.mask(filter)[: len(mask)]
        if ids is None:
            return np.flatnonzero(mask)
        among = self._catalog.slots(ids).values()
        return np.array(sorted(slot for slot in among if mask[slot]), dtype=np.int64)

    def _as_mask(self, slots: Slots) -> Mask:
        mask = np.zeros(len(self._alive), dtype=bool)
        mask[slots] = True
        return mask

    def _enter(self, records: Sequence[Record], hashes: Mapping[str, str], vectors: Vectors) -> None:
        """Bring the catalog and the vectors to what Chroma has been told."""
        known = self._catalog.slots([record.id for record in records])
        free = chain(np.flatnonzero(~self._alive).tolist(), count(len(self._alive)))
        slots = np.array([known[record.id] if record.id in known else next(free) for record in records], dtype=np.int64)
        self._vectors.put(slots, vectors)
        self._vectors.flush()
        entries = [Entry(slot, record) for slot, record in zip(slots.tolist(), records, strict=True)]
        self._catalog.put(entries, hashes)
        for slot in known.values():
            self._columns.clear(slot)
        self._index(self._catalog.flats(slots.tolist()))

    def _leave(self, slots: Sequence[int]) -> None:
        self._catalog.delete(slots)
        gone = np.array(slots, dtype=np.int64)
        self._alive[gone] = False
        self._vectors.put(gone, np.zeros((len(gone), self._vectors.dim), dtype=np.float32))
        for slot in slots:
            self._columns.clear(slot)

    def _index(self, flats: Iterable[tuple[int, Mapping[str, object]]]) -> None:
        for slot, flat in flats:
            if slot >= len(self._alive):
                self._alive = np.concatenate([self._alive, np.zeros(max(1024, slot), dtype=bool)])
                self._columns.reserve(len(self._alive))
            self._alive[slot] = True
            self._columns.put(slot, flat)  # type: ignore[arg-type]

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Say on disk that Chroma is about to know more than the catalog, and remember if it came to stay so."""
        if self._torn:
            self._reconcile()
            self._torn = False
        if self._clean:
            self._catalog.set_state("chroma", "changing")
            self._clean = False
        try:
            yield
        except BaseException:
            self._torn = True
            raise

    def _open(self) -> None:
        self._index(self._catalog.flats())
        complete = not self._alive[len(self._vectors) :].any()
        self._clean = complete and self._catalog.state("chroma") == self._chroma_stamp()
        if not self._clean:
            self._reconcile()
            self.settle()

    def _reconcile(self) -> None:
        """Make the catalog and the vectors say what Chroma says."""
        ids = self.collection.ids()
        known = self._catalog.hashes()
        gone = list(self._catalog.slots(list(known.keys() - set(ids))).values())
        if gone:
            self._leave(gone)
        page = min(_PAGE, self.collection.batch_size)
        for start in range(0, len(ids), page):
            some = ids[start : start + page]
            hashes = self.collection.hashes(some)
            slots = {id: slot for id, slot in self._catalog.slots(some).items() if slot < len(self._vectors)}
            rows = self._vectors.rows(np.array(list(slots.values()), dtype=np.int64))
            intact = dict(zip(slots, np.abs(rows).max(axis=1) > 0, strict=True))
            stale = [id for id in some if known.get(id) != hashes[id] or not intact.get(id, False)]
            if stale:
                records = self.collection.get(stale, vectors=True)
                vectors = np.stack([record.vector for record in records if record.vector is not None])
                self._enter(records, hashes, vectors)

    def _chroma_stamp(self) -> str:
        """Changes with every write to Chroma, whoever writes; opening it changes its file, but not this."""
        if self._folder is None:
            return "memory"
        # Chroma numbers all writes; of those done it keeps no more than the last number, by segment.
        last = "SELECT max(seq_id) FROM (SELECT seq_id FROM embeddings_queue UNION ALL SELECT seq_id FROM max_seq_id)"
        with closing(sqlite3.connect(self._folder / "chroma.sqlite3", timeout=60)) as db:
            return f"{self.collection.chroma.id} {db.execute(last).fetchone()[0]}"


def _with_vector(record: Record, row: Vectors) -> Record:
    return Record(record.id, record.text, record.metadata, record.payload, record.fields, record.namespace, row)
