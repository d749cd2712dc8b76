"""Records in a Chroma collection that others may write to as well: on a server, or through a caller's client."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..embedder import Vectors, ViewLike
from ..errors import InputError, StoreError
from .collection import StampedCollection, find, rename
from .filters import Filter
from .ranking import Candidate, Embed, Query
from .records import Record, cosine

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_PAGE = 1024
_LEAST = 50  # Chroma's graph misses near neighbours when it is asked for few


class ServedRecords:
    """Records that live in Chroma alone, ranked by Chroma's own graph.

    There is no lexical index here, which only the owner of the data could keep true: `hybrid` ranks by meaning,
    and `lexical` is refused.
    """

    def __init__(self, collection: StampedCollection) -> None:
        self.collection = collection

    @classmethod
    def open(cls, client: ClientAPI, name: str, view: ViewLike) -> ServedRecords:
        """Open a collection, or make it; one whose rebuild died before the new one took over gets its name back.

        Raises:
            StoreError: If the collection is not one of ours (`FingerprintError`: another embedder's).
            ServerError: If the server does not answer.
        """
        if find(client, name) is None and (left := find(client, _aside(name))) is not None:
            rename(left, name)
        return cls(StampedCollection(client, name, view))

    @property
    def batch_size(self) -> int:
        """Records that may be written at a time."""
        return self.collection.batch_size

    def check(self, view: ViewLike) -> None:
        """Refuse another embedder than the records were written with."""
        self.collection.check(view)

    def put(self, records: Sequence[Record], hashes: Mapping[str, str], vectors: Vectors, view: ViewLike) -> None:
        """Write records, each as a whole; their hashes can be told from them."""
        del hashes
        self.check(view)
        self.collection.put(records, vectors)

    @property
    def version(self) -> None:
        """None: others may change the records as well."""
        return

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all records, or of those that match."""
        return self.collection.ids(filter)

    def hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Content hash by id, of those that are there."""
        return self.collection.hashes(ids)

    def get(
        self, ids: Sequence[str] | None = None, filter: Filter | None = None, *, vectors: bool = False
    ) -> list[Record]:
        """Records by id, by filter, or all."""
        return self.collection.get(ids, filter, vectors=vectors)

    def delete(self, ids: Sequence[str]) -> None:
        """Take records away."""
        self.collection.delete(ids)

    def count(self, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        return self.collection.count(filter)

    def rank(self, query: Query) -> list[Candidate]:
        """The candidates that Chroma finds nearest."""
        if query.mode == "lexical":
            raise InputError("mode='lexical' needs an embedded store; on a Chroma server use 'hybrid' or 'dense'.")
        found = self.collection.nearest(query.vector, max(query.n, _LEAST), query.filter, query.ids)
        candidates = [
            Candidate(record, _row(record), cosine(distance), cosine(distance), {"dense": rank})
            for rank, (record, distance) in enumerate(found, start=1)
        ]
        if query.min_score is not None:
            candidates = [candidate for candidate in candidates if candidate.cosine >= query.min_score]
        return candidates[: query.n]

    def rebuild(self, view: ViewLike, embed: Embed | None, progress: Callable[[int, int], None]) -> bool:
        """Copy what is there into a new collection, check it, and give it the name of the old one.

        What a server cannot promise: between the two renamings nobody finds the collection for a moment, what
        others write during the copy may be lost, who has the old collection open must open it again, and the
        server's own files keep the bytes of deleted records until its owner rebuilds them.

        Raises:
            StoreError: If the copy is not what it should be; the old collection stays.
        """
        old, name = self.collection, self.collection.chroma.name
        if find(old.client, _aside(name)) is not None:  # a rebuild died when all that was left was to drop it
            old.client.delete_collection(_aside(name))
        fresh = StampedCollection(old.client, f"{name}--{view.fingerprint[:12]}", view)
        ids = old.ids()
        page = min(_PAGE, fresh.batch_size)
        for start in range(0, len(ids), page):
            some = ids[start : start + page]
            hashes, done = old.hashes(some), fresh.hashes(some)
            missing = [id for id in some if done.get(id) != hashes[id]]
            if missing:
                records = old.get(missing, vectors=True)
                vectors = np.stack([_row(record) for record in records]) if embed is None else embed(records)
                fresh.put(records, vectors)
            progress(start + len(some), len(ids))
        gone = set(fresh.ids()) - set(ids)
        if gone:
            fresh.delete(sorted(gone))
        if fresh.count() != len(ids):
            raise StoreError(f"The new collection of {name!r} has {fresh.count()} records instead of {len(ids)}.")
        rename(old.chroma, _aside(name))
        rename(fresh.chroma, name)
        old.drop()
        self.collection = fresh
        return True

    def close(self) -> None:
        """Nothing to let go: the connection is shared."""


def _aside(name: str) -> str:
    """What a collection is called while the one that replaces it takes its name."""
    return f"{name}--old"


def _row(record: Record) -> Vectors:
    assert record.vector is not None
    return np.asarray(record.vector, dtype=np.float32)
