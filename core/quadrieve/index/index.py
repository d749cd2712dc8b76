"""The index that all four roles stand on."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self

import numpy as np

from ..embedder import OnLong, RoleView, Vectors, ViewLike, check_text
from ..errors import InputError
from ..roles import Role
from .collection import StampedCollection
from .filters import Comparison, Filter, all_of
from .location import Location, collection_name, connect
from .records import NAMESPACE, Hit, Namespace, Record, content_hash, cosine, namespace_key

Mode = Literal["hybrid", "dense", "lexical"]

_BATCH = 1024  # records embedded and written together: what a killed process has to do again at most


class Index:
    """Texts of one role under one name, searched by meaning.

    Thread-safe. Use a role (`KnowledgeBase`, `Memory`, …) unless you build one of your own.

    Example:
        >>> from quadrieve import Embedder, Index, Record, Role
        >>> view = Embedder.load().view("qa")
        >>> with Index.open(None, view=view, role=Role.KNOWLEDGE) as index:
        ...     _ = index.write([Record("a", "Bees make honey."), Record("b", "The bus leaves at nine.")])
        ...     index.search("Where does honey come from?", k=1)[0].id
        'a'
    """

    def __init__(self, collection: StampedCollection, view: ViewLike, *, on_long: OnLong = "warn") -> None:
        self._collection = collection
        self.view = view
        self._on_long = on_long

    @classmethod
    def open(
        cls, location: Location, *, view: ViewLike, role: Role, name: str = "default", on_long: OnLong = "warn"
    ) -> Index:
        """Open an index, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            view: What embeds; the same weights and prefixes as when it was made.
            role: The role that it serves.
            name: Tells several indexes of one role apart.
            on_long: What to do with texts longer than the model reads: see `RoleView.embed_keys`.

        Raises:
            StoreError: If the location holds something else; `FingerprintError` if another embedder wrote it,
                `ServerError` if no server answers.
            InputError: If the location or the name is not one.
        """
        client, collection = connect(location, collection_name(role, name))
        return cls(StampedCollection(client, collection, view), view, on_long=on_long)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; closing twice is fine."""

    def write(self, records: Sequence[Record], *, progress: bool = False) -> list[str]:
        """Store records; one whose id is there already is replaced, and left alone if nothing changed.

        Written batch by batch, so what was written before an interruption stays and is not embedded again.

        Returns:
            The ids, in the order of the records.

        Raises:
            InputError: If one id stands for two different records.
        """
        from tqdm.auto import tqdm

        unique: dict[str, Record] = {}
        for record in records:
            if unique.setdefault(record.id, record) != record:
                raise InputError(f"The id {record.id!r} stands for two different records; give each its own.")
        batch = min(_BATCH, self._collection.batch_size)
        pending = list(unique.values())
        with tqdm(total=len(pending), unit="record", desc="Indexing", disable=not progress) as bar:
            for start in range(0, len(pending), batch):
                some = pending[start : start + batch]
                stored = self._collection.hashes([record.id for record in some])
                changed = [record for record in some if stored.get(record.id) != content_hash(record)]
                if changed:
                    self._collection.put(changed, self._vectors(changed))
                bar.update(len(some))
        return [record.id for record in records]

    def search(
        self,
        query: str | Vectors,
        k: int = 5,
        *,
        namespace: Namespace | None = None,
        filter: Filter | None = None,
        ids: Sequence[str] | None = None,
        mode: Mode = "dense",
        min_score: float | None = None,
    ) -> list[Hit]:
        """The k records that fit a query best, best first.

        Args:
            query: A text, or a vector `[dim]` of the view's query side.
            k: How many at most.
            namespace: Only this tenant's records.
            filter: Only records that match, from `read_filter`.
            ids: Only these records.
            mode: How to rank.
            min_score: Only records with at least this cosine similarity.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, got {k!r}.")
        if mode != "dense":
            raise InputError(f"Unknown mode {mode!r}; expected 'dense'.")
        if ids is not None and not ids:
            return []
        within = all_of(_in_namespace(namespace), filter)
        found = self._collection.nearest(self._query_vector(query), k, within, ids)
        hits = [
            Hit(record.id, record.text, cosine(distance), record.metadata, {"dense": rank}, record.payload)
            for rank, (record, distance) in enumerate(found, start=1)
        ]
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

    def get(
        self,
        ids: Sequence[str] | None = None,
        *,
        namespace: Namespace | None = None,
        filter: Filter | None = None,
    ) -> list[Record]:
        """Records by id (in that order), by filter, or all."""
        if ids is not None and not ids:
            return []
        found = self._collection.get(ids, all_of(_in_namespace(namespace), filter))
        if ids is None:
            return found
        by_id = {record.id: record for record in found}
        return [by_id[id] for id in dict.fromkeys(ids) if id in by_id]

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        namespace: Namespace | None = None,
        filter: Filter | None = None,
    ) -> int:
        """Delete by id, by filter or both; returns how many there were.

        Raises:
            InputError: If neither ids nor a filter nor a namespace says what to delete.
        """
        if ids is None and filter is None and namespace is None:
            raise InputError("delete() needs ids or a filter; to delete everything, remove the store.")
        found = [record.id for record in self.get(ids, namespace=namespace, filter=filter)]
        if found:
            self._collection.delete(found)
        return len(found)

    def count(self, *, namespace: Namespace | None = None, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        within = all_of(_in_namespace(namespace), filter)
        return self._collection.count() if within is None else len(self._collection.get(filter=within))

    def _vectors(self, records: Sequence[Record]) -> Vectors:
        """`[n, dim]`: a record's own vector where it has one, else its text's."""
        out = np.empty((len(records), self.view.dim), dtype=np.float32)
        to_embed = [i for i, record in enumerate(records) if record.vector is None]
        for i, record in enumerate(records):
            if record.vector is not None:
                out[i] = record.vector
        if to_embed:
            out[to_embed] = self.embed_keys([records[i].text for i in to_embed])
        return out

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as this index stores them."""
        if isinstance(self.view, RoleView):
            return self.view.embed_keys(texts, on_long=self._on_long)
        return self.view.embed_keys(texts)

    def _query_vector(self, query: str | Vectors) -> Vectors:
        if isinstance(query, np.ndarray):
            if query.shape != (self.view.dim,):
                raise InputError(f"A query vector has shape ({self.view.dim},) here, got {query.shape}.")
            return query
        vector: Vectors = self.view.embed_queries([check_text(query, "The query")])[0]
        return vector


def _in_namespace(namespace: Namespace | None) -> Filter | None:
    return None if namespace is None else Comparison(NAMESPACE, "$eq", namespace_key(namespace))
