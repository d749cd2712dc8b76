"""The index that all four roles stand on."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Self, TypeVar, get_args

import numpy as np

from ..embedder import OnLong, RoleView, Vectors, ViewLike, check_text
from ..errors import FingerprintError, InputError, StoreError
from ..roles import Role
from .embedded import EmbeddedRecords
from .filters import Filter, all_of, in_namespace
from .fusion import Fusion, diversify, fusion_of
from .location import Location, as_folder, collection_name, connect
from .ranking import Candidate, Embed, Mode, Query, RecordStore
from .records import Hit, Namespace, Record, content_hash
from .served import ServedRecords

T = TypeVar("T")

_BATCH = 1024  # records embedded and written together: what a killed process has to do again at most
_GIVEN = 5000  # records written together that need not be embedded


class Index:
    """Texts of one role under one name, searched by meaning and by words.

    Thread-safe. Use a role (`KnowledgeBase`, `Memory`, …) unless you build one of your own.

    Attributes:
        view: What embeds.

    Example:
        >>> from quadrieve import Embedder, Index, Record, Role
        >>> view = Embedder.load().view("qa")
        >>> with Index.open(None, view=view, role=Role.KNOWLEDGE) as index:
        ...     _ = index.write([Record("a", "Bees make honey."), Record("b", "The bus leaves at nine.")])
        ...     index.search("Where does honey come from?", k=1)[0].id
        'a'
    """

    def __init__(
        self, records: RecordStore, view: ViewLike, *, role: Role = Role.KNOWLEDGE, on_long: OnLong = "warn"
    ) -> None:
        self._records = records
        self.view = view
        self._role = role
        self._fusion: Fusion | None = None
        self._on_long = on_long
        self._closed = False
        self._migrating = threading.RLock()

    @classmethod
    def open(
        cls, location: Location, *, view: ViewLike, role: Role, name: str = "default", on_long: OnLong = "warn"
    ) -> Index:
        """Open an index, or make it where there is none.

        Args:
            location: A folder, which this process then owns; `http://host:port`; a chromadb client; or None
                for memory.
            view: What embeds; the same weights and prefixes as when it was made.
            role: The role that it serves.
            name: Tells several indexes of one role apart.
            on_long: What to do with texts longer than the model reads: see `RoleView.embed_keys`.

        Raises:
            StoreError: If the location holds something else or another process owns it; `FingerprintError` if
                another embedder wrote it, `ServerError` if no server answers.
            InputError: If the location or the name is not one.
        """
        collection = collection_name(role, name)
        records: RecordStore
        if location is None:
            records = EmbeddedRecords.in_memory(collection, view)
        elif (folder := as_folder(location)) is not None:
            records = EmbeddedRecords.in_folder(folder / collection, collection, view)
        else:
            records = ServedRecords.open(connect(location), collection, view)
        return cls(records, view, role=role, on_long=on_long)

    @property
    def fusion(self) -> Fusion:
        """How much words count in the mode `hybrid`: what suits role and model, unless you set another."""
        return self._fusion or fusion_of(self._role, self.view)

    @fusion.setter
    def fusion(self, fusion: Fusion) -> None:
        self._fusion = fusion

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._records.close()

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
            if not record.id:
                raise InputError("An id is empty; expected at least one character.")
            if unique.setdefault(record.id, record) != record:
                raise InputError(f"The id {record.id!r} stands for two different records; give each its own.")
        store = self._open_records()
        pending = list(unique.values())
        batch = min(_GIVEN if all(record.vector is not None for record in pending) else _BATCH, store.batch_size)
        with tqdm(total=len(pending), unit="record", desc="Indexing", disable=not progress) as bar:
            for start in range(0, len(pending), batch):
                some = pending[start : start + batch]
                hashes = {record.id: content_hash(record) for record in some}
                stored = store.hashes(list(hashes))
                changed = [record for record in some if stored.get(record.id) != hashes[record.id]]
                if changed:
                    self._put(changed, hashes)
                bar.update(len(some))
        return [record.id for record in records]

    def search(
        self,
        query: str | Vectors,
        k: int = 5,
        *,
        namespace: Namespace | None = None,
        within: Namespace | None = None,
        filter: Filter | None = None,
        ids: Sequence[str] | None = None,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        diversity: float | None = None,
    ) -> list[Hit]:
        """The k records that fit a query best, best first.

        Args:
            query: A text, or a unit vector `[dim]` of the view's query side, which is ranked by alone.
            k: How many at most.
            namespace: Only this tenant's records.
            within: Only records of this namespace and those below it; `()` is above all.
            filter: Only records that match, from `read_filter`.
            ids: Only these records.
            mode: `hybrid` ranks by meaning and by words, `dense` by meaning alone, `lexical` by words alone.
            min_score: Only records with at least this cosine similarity.
            diversity: From 0 to 1: how much a hit's likeness to those before it counts against it (MMR).

        Raises:
            InputError: If an option is out of its range, or `lexical` is asked of a server.
        """
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise InputError(f"k must be a whole number of at least 1, got {k!r}.")
        if mode not in get_args(Mode):
            raise InputError(f"Unknown mode {mode!r}; expected one of {', '.join(get_args(Mode))}.")
        if diversity is not None and not 0 <= diversity <= 1:
            raise InputError(f"diversity is a number from 0 to 1, got {diversity!r}.")
        if ids is not None and not ids:
            return []
        store = self._open_records()

        def rank(view: ViewLike) -> list[Candidate]:
            return store.rank(
                Query(
                    vector=self._query_vector(query, view),
                    view=view,
                    text=query if isinstance(query, str) else None,
                    n=k if diversity is None else max(4 * k, 20),
                    mode=mode,
                    fusion=self.fusion,
                    filter=all_of(in_namespace(namespace, within), filter),
                    namespace=namespace,
                    ids=ids,
                    min_score=min_score,
                )
            )

        found = self._by_view(rank) if isinstance(query, str) else rank(self.view)
        if diversity and found:
            relevance = np.array([candidate.relevance for candidate in found])
            spread = max(float(np.ptp(relevance)), 1e-9)
            vectors = np.stack([candidate.vector for candidate in found])
            found = [found[i] for i in diversify((relevance - relevance.min()) / spread, vectors, k, diversity)]
        return [
            Hit(c.record.id, c.record.text, c.cosine, c.record.metadata, c.why, c.record.payload) for c in found[:k]
        ]

    def get(
        self,
        ids: Sequence[str] | None = None,
        *,
        namespace: Namespace | None = None,
        within: Namespace | None = None,
        filter: Filter | None = None,
        vectors: bool = False,
    ) -> list[Record]:
        """Records by id (in that order), by filter, or all; with their vectors if asked."""
        if ids is not None and not ids:
            return []
        scope = all_of(in_namespace(namespace, within), filter)
        found = self._open_records().get(ids, scope, vectors=vectors)
        if ids is None:
            return found
        by_id = {record.id: record for record in found}
        return [by_id[id] for id in dict.fromkeys(ids) if id in by_id]

    def delete(
        self,
        ids: Sequence[str] | None = None,
        *,
        namespace: Namespace | None = None,
        within: Namespace | None = None,
        filter: Filter | None = None,
    ) -> int:
        """Delete by id, by filter or both; returns how many there were.

        What is deleted is found no more from then on; its bytes are gone after `rebuild`.

        Raises:
            InputError: If neither ids nor a filter nor a namespace says what to delete.
        """
        if ids is None and filter is None and namespace is None and within is None:
            raise InputError("delete() needs ids or a filter; to delete everything, remove the store.")
        found = [record.id for record in self.get(ids, namespace=namespace, within=within, filter=filter)]
        if found:
            self._open_records().delete(found)
        return len(found)

    def count(
        self, *, namespace: Namespace | None = None, within: Namespace | None = None, filter: Filter | None = None
    ) -> int:
        """How many records there are, in all or of those that match."""
        return self._open_records().count(all_of(in_namespace(namespace, within), filter))

    def scan(
        self,
        *,
        namespace: Namespace | None = None,
        within: Namespace | None = None,
        filter: Filter | None = None,
        vectors: bool = False,
    ) -> Iterator[Record]:
        """All records, or those that match, one after the other: what is in memory at a time stays small."""
        ids = self._open_records().ids(all_of(in_namespace(namespace, within), filter))
        for start in range(0, len(ids), _BATCH):
            yield from self.get(ids[start : start + _BATCH], vectors=vectors)

    @property
    def version(self) -> int | None:
        """Goes up with every change; None where other processes may change the records as well."""
        return self._open_records().version

    def rebuild(self, view: ViewLike | None = None, *, embed: Embed | None = None, progress: bool = False) -> None:
        """Copy the live records into a new place, check the copy, switch to it from one moment to the next.

        With the same embedder this erases: nothing of a deleted record is left in any byte of the folder. With
        another one it migrates: all texts are encoded anew; after a kill, calling it again goes on where it stopped.
        Searches are answered by the old place until the switch. For a Chroma server see `ServedRecords.rebuild`.

        Args:
            view: What will embed from now on; None keeps the embedder and the vectors.
            embed: Makes the vectors of records; None encodes their texts.
            progress: Show a progress bar on stderr.

        Raises:
            StoreError: If the copy is not what it should be; nothing has changed then.
        """
        from tqdm.auto import tqdm

        with tqdm(unit="record", desc="Rebuilding", disable=not progress) as bar:

            def show(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            with self._migrating:
                records = self._open_records()
                target = view or self.view
                anew = None if target.fingerprint == self.view.fingerprint else embed or self._embed_with(target)
                pristine = records.rebuild(target, anew, show)
                self.view = target
            if not pristine:
                # What was deleted or changed during the copy lies in its bytes; a second copy forgets it.
                records.rebuild(target, None, show)

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Encode texts as this index stores them."""
        return self.encode(self.view, texts)

    def encode(self, view: ViewLike, texts: Sequence[str]) -> Vectors:
        """Encode texts as this index would store them with that view."""
        return view.embed_keys(texts, on_long=self._on_long) if isinstance(view, RoleView) else view.embed_keys(texts)

    def _embed_with(self, view: ViewLike) -> Embed:
        return lambda records: self.encode(view, [record.text for record in records])

    def _open_records(self) -> RecordStore:
        if self._closed:
            raise StoreError("The index is closed; open it again.")
        self._by_view(self._records.check)
        return self._records

    def _by_view(self, act: Callable[[ViewLike], T]) -> T:
        """Do what depends on the embedder, and once more if a rebuild of this index put another in its place."""
        view = self.view
        try:
            return act(view)
        except FingerprintError:
            with self._migrating:
                now = self.view
            if now is view:
                raise
            return act(now)

    def _put(self, records: Sequence[Record], hashes: Mapping[str, str]) -> None:
        def put(view: ViewLike) -> None:
            self._records.put(records, hashes, self._vectors(records, view), view)

        if any(record.vector is not None for record in records):
            put(self.view)  # such a vector cannot be made again
        else:
            self._by_view(put)

    def _vectors(self, records: Sequence[Record], view: ViewLike) -> Vectors:
        """`[n, dim]`: a record's own vector where it has one, else its text's."""
        out = np.empty((len(records), view.dim), dtype=np.float32)
        to_embed = [i for i, record in enumerate(records) if record.vector is None]
        for i, record in enumerate(records):
            if record.vector is not None:
                out[i] = record.vector
        if to_embed:
            out[to_embed] = self.encode(view, [records[i].text for i in to_embed])
        return out

    def _query_vector(self, query: str | Vectors, view: ViewLike) -> Vectors:
        if isinstance(query, np.ndarray):
            if query.shape != (view.dim,):
                raise InputError(f"A query vector has shape ({view.dim},) here, got {query.shape}.")
            return query
        vector: Vectors = view.embed_queries([check_text(query, "The query")])[0]
        return vector
