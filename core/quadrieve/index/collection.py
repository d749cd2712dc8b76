"""One Chroma collection, stamped with what wrote it, that does as it is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from ..embedder import Vectors, ViewLike
from ..errors import FingerprintError, ServerError, StoreError
from .filters import Filter, for_chroma
from .records import RESERVED, Record, content_hash, from_chroma, to_chroma

if TYPE_CHECKING:
    from chromadb import Collection as ChromaCollection
    from chromadb.api import ClientAPI

#: Records that Chroma collects before it writes its graph, as a whole: by its default of 1,000 it does little else.
SYNC = 5000
_FINGERPRINT = f"{RESERVED}fingerprint"


class StampedCollection:
    """A cosine collection of records that refuses any view but the one it was written with.

    Raises:
        FingerprintError: If the collection was written with other weights or prefixes.
        StoreError: If the collection is not one of ours, or does not measure cosine.
    """

    def __init__(self, client: ClientAPI, name: str, view: ViewLike) -> None:
        self.client = client
        with _asking_chroma(name):
            # The view embeds, never Chroma: a server's collection configuration must not name code to run.
            self.chroma: ChromaCollection = client.get_or_create_collection(
                name,
                metadata=_stamp(view),
                configuration={"hnsw": {"space": "cosine", "sync_threshold": SYNC}},
                embedding_function=None,
            )
            # get_or_create returns what was asked for, not what is stored.
            self.chroma = client.get_collection(name, embedding_function=None)
        self.check(view)
        self.batch_size: int = client.get_max_batch_size()

    def check(self, view: ViewLike) -> None:
        """Refuse a view that is not the one that the records were written with."""
        _check_stamp(self.chroma, self.chroma.name, view)

    def drop(self) -> None:
        """Remove the collection."""
        with _asking_chroma(self.chroma.name):
            self.client.delete_collection(self.chroma.name)

    def count(self, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        if filter is None:
            with _asking_chroma(self.chroma.name):
                return self.chroma.count()
        return len(self.ids(filter))

    def put(
        self,
        records: Sequence[Record],
        vectors: Vectors,
        keys_before: Mapping[str, set[str]] | None = None,
    ) -> None:
        """Write records as they are now, nothing of an earlier version left; at most `batch_size` at a time.

        Args:
            records: The records.
            vectors: Their vectors, `[n, dim]`.
            keys_before: Metadata keys that are stored, by id; None asks Chroma.
        """
        ids = [record.id for record in records]
        with _asking_chroma(self.chroma.name):
            if keys_before is None:
                stored = self.chroma.get(ids=ids, include=["metadatas"])
                flats = zip(stored["ids"], stored["metadatas"] or (), strict=True)
                keys_before = {id: set(flat or ()) for id, flat in flats}
            metadatas: list[Any] = []
            for record in records:
                flat: dict[str, Any] = dict(to_chroma(record))
                # Chroma merges metadata on upsert; None takes a key away.
                flat |= dict.fromkeys(keys_before.get(record.id, set()) - set(flat))
                metadatas.append(flat)
            self.chroma.upsert(
                ids=ids, embeddings=vectors, documents=[record.text for record in records], metadatas=metadatas
            )

    def hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Content hash by id, of those that are stored; at most `batch_size` at a time."""
        return {record.id: content_hash(record) for record in self.get(ids)}

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all records, or of those that match."""
        with _asking_chroma(self.chroma.name):
            return list(self.chroma.get(where=for_chroma(filter), include=[])["ids"])

    def get(
        self,
        ids: Sequence[str] | None = None,
        filter: Filter | None = None,
        *,
        limit: int | None = None,
        offset: int | None = None,
        vectors: bool = False,
    ) -> list[Record]:
        """Records by id, by filter or both, in Chroma's order."""
        include: Any = ["documents", "metadatas", *(["embeddings"] if vectors else [])]
        with _asking_chroma(self.chroma.name):
            found = self.chroma.get(
                ids=None if ids is None else list(ids),
                where=for_chroma(filter),
                limit=limit,
                offset=offset,
                include=include,
            )
        rows = found["embeddings"] if vectors and found["embeddings"] is not None else [None] * len(found["ids"])
        texts, flats = found["documents"] or [], found["metadatas"] or []
        return [
            from_chroma(id, text, flat, None if row is None else np.asarray(row, dtype=np.float32))
            for id, text, flat, row in zip(found["ids"], texts, flats, rows, strict=True)
        ]

    def nearest(
        self, vector: Vectors, k: int, filter: Filter | None, ids: Sequence[str] | None
    ) -> list[tuple[Record, float]]:
        """The k records nearest to a vector `[dim]`, with their vectors and cosine distances, nearest first."""
        with _asking_chroma(self.chroma.name):
            found = self.chroma.query(
                query_embeddings=np.atleast_2d(vector),
                n_results=k,
                where=for_chroma(filter),
                ids=None if ids is None else list(ids),
                include=["documents", "metadatas", "embeddings", "distances"],
            )
        lists = (found["ids"], found["documents"], found["metadatas"], found["embeddings"], found["distances"])
        rows = zip(*(some[0] for some in lists if some is not None), strict=True)
        return [(from_chroma(id, text, flat, row), float(distance)) for id, text, flat, row, distance in rows]

    def delete(self, ids: Sequence[str]) -> None:
        """Take records away; ids that are not there are no error."""
        with _asking_chroma(self.chroma.name):
            for start in range(0, len(ids), self.batch_size):
                self.chroma.delete(ids=list(ids[start : start + self.batch_size]))


def find(client: ClientAPI, name: str) -> ChromaCollection | None:
    """The collection of that name, whoever made it, or None."""
    from chromadb.errors import NotFoundError

    with _asking_chroma(name):
        try:
            return client.get_collection(name, embedding_function=None)
        except NotFoundError:
            return None


def rename(collection: ChromaCollection, name: str) -> None:
    """Give a collection another name."""
    with _asking_chroma(collection.name):
        collection.modify(name=name)


def _stamp(view: ViewLike) -> dict[str, Any]:
    return {
        _FINGERPRINT: view.fingerprint,
        f"{RESERVED}by": _describe(view),
        f"{RESERVED}dim": view.dim,
        f"{RESERVED}format": 1,
    }


def _describe(view: ViewLike) -> str:
    embedder = getattr(view, "embedder", None)
    name = getattr(embedder, "name", None) or type(view).__name__
    checkpoint = getattr(embedder, "checkpoint", None)
    length = "" if checkpoint is None else f", {checkpoint.max_length} tokens"
    return f"{name} (query {view.explain('…', 'query')!r}, key {view.explain('…', 'key')!r}{length})"


def _check_stamp(chroma: ChromaCollection, name: str, view: ViewLike) -> None:
    stamp = chroma.metadata or {}
    written = stamp.get(_FINGERPRINT)
    if written is None:
        raise StoreError(f"The collection {name!r} was not written by quadrieve; choose another name.")
    if written != view.fingerprint:
        raise FingerprintError(
            f"The index {name!r} was written with {stamp.get(f'{RESERVED}by')} (fingerprint {written[:8]}), but opened "
            f"with {_describe(view)} (fingerprint {view.fingerprint[:8]}); open it with the embedder that wrote it and "
            "rebuild(embedder=…) it with the new one, or choose another name."
        )
    space = (chroma.configuration.get("hnsw") or {}).get("space")
    if space != "cosine":
        raise StoreError(f"The collection {name!r} measures {space!r}, not cosine; choose another name.")


@contextmanager
def _asking_chroma(name: str) -> Iterator[None]:
    """Say in one sentence what Chroma or the network to it could not do."""
    import httpx
    from chromadb.errors import ChromaError

    try:
        yield
    except httpx.HTTPError as error:
        raise ServerError(
            f"The Chroma server of {name!r} did not answer ({type(error).__name__}); is it running?"
        ) from error
    except ChromaError as error:
        raise StoreError(f"Chroma refused a request on {name!r}: {error}.") from error
