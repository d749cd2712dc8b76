"""LangGraph's long-term memory on the index: persistent, searched by meaning, each side behind its own prefix."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from langchain_core.runnables.config import run_in_executor
from langgraph.store.base import (
    BaseStore,
    GetOp,
    IndexConfig,
    Item,
    ListNamespacesOp,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
)

from quadrieve import EmbedderLike, Hit, Index, Record, Role
from quadrieve.embedder import Vectors
from quadrieve.index.filters import Filter, all_of, own
from quadrieve.index.location import Location
from quadrieve.index.records import Namespace, Scalar, content_id

from .embeddings_view import placeholder, read_embeddings, unit_rows
from .item_filter import matches
from .store_ops import fits, read_ops

_NEVER = 1e18


class FoundItem(SearchItem):
    """A found item that also says which ranker found it at which rank, in `why`; empty where nothing was ranked."""

    __slots__ = ("why",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.why: Mapping[str, Any] = {}


class QuadrieveStore(BaseStore):
    """A `BaseStore` that stands where `InMemoryStore` stood, and is still there tomorrow.

    Values are JSON. An item is one record with the vector of its text; each further text that is indexed is one more,
    so that an item of several fields is found by the best of them. What is not searched by meaning comes newest first.

    Example:
        >>> from quadrieve import Embedder
        >>> store = QuadrieveStore(embedder=Embedder.load())
        >>> store.put(("ada", "facts"), "dog", {"text": "My dog is called Biscuit."})
        >>> store.put(("ada", "facts"), "town", {"text": "I live in Oslo.", "year": 2024})
        >>> store.search(("ada",), query="What is my pet's name?")[0].key
        'dog'
        >>> [item.key for item in store.search(("ada",), filter={"year": {"$gte": 2020}})]
        ['town']
    """

    supports_ttl = True

    def __init__(
        self,
        location: Location = None,
        *,
        embedder: EmbedderLike | None = None,
        index: IndexConfig | None = None,
        ttl: TTLConfig | None = None,
        name: str = "langgraph",
        task: Role | str = Role.MEMORY,
    ) -> None:
        """Open a store, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: What encodes; without it and without `index["embed"]` nothing is searched by meaning.
            index: LangGraph's own: `embed` and `dims` for another embedder, `fields` for what is encoded of a value
                (`["text"]` if not given, `["$"]` for the whole of it).
            ttl: LangGraph's own, in minutes. With `sweep_interval_minutes` a thread deletes what has expired.
            name: Tells several stores of one location apart.
            task: The embedder's task: `chat`, `lrlm`, or any other.

        Raises:
            InputError: If two embedders are given, or `dims` is not the embedder's.
            StoreError: If the location holds something else (`FingerprintError`: another embedder's store).
        """
        self.embeddings, view = read_embeddings(embedder, index, task)
        self._fields = (index or {}).get("fields") or ["text"]
        self.index_config: IndexConfig | None = None
        if self.embeddings is not None:
            self.index_config = {"dims": view.dim, "embed": self.embeddings, "fields": self._fields}
        self.ttl_config = ttl
        self._omit_expired = bool((ttl or {}).get("omit_expired"))
        self._index = Index.open(location, view=view, role=Role.MEMORY, name=name)
        self._writing = threading.RLock()
        self._closed = threading.Event()
        interval = (ttl or {}).get("sweep_interval_minutes")
        if interval:
            threading.Thread(
                target=_sweep_regularly, args=(weakref.ref(self), self._closed, interval * 60), daemon=True
            ).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop sweeping and let go of the location; closing twice is fine."""
        self._closed.set()
        with self._writing:
            self._index.close()

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Execute operations: all reads see what was there before, then the last put of each key is written.

        Raises:
            InvalidNamespaceError: If a label is empty, no string, or has a `.` or NUL in it.
            InputError: If a value is not JSON, or a filter's operator is unknown.
        """
        given = read_ops(ops)
        texts, queries = self._to_encode(given)
        vectors = self.embeddings.embed_documents(texts) if self.embeddings and texts else []
        asked = [self.embeddings.embed_query(query) for query in queries] if self.embeddings else []
        return self._execute(given, self._encoded(texts, vectors), self._encoded(queries, asked))

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """`batch`, encoding in the embedder's own asynchronous way and storing in a thread."""
        given = read_ops(ops)
        texts, queries = self._to_encode(given)
        vectors = await self.embeddings.aembed_documents(texts) if self.embeddings and texts else []
        asked = [await self.embeddings.aembed_query(query) for query in queries] if self.embeddings else []
        keys, wanted = self._encoded(texts, vectors), self._encoded(queries, asked)
        return await run_in_executor(None, self._execute, given, keys, wanted)

    def sweep_ttl(self) -> int:
        """Delete what has expired; returns how many items."""
        with self._writing:
            expired = self._items(own("expires", "$lte", time.time()))
            self._delete(expired)
        return len(expired)

    def rebuild(self) -> None:
        """Erase: afterwards nothing of what was deleted is left in any byte of the location's folder."""
        self._index.rebuild()

    def _to_encode(self, ops: Sequence[Op]) -> tuple[list[str], list[str]]:
        """The texts and the queries of the operations, each once."""
        if self.embeddings is None:
            return [], []
        puts = _last_puts(ops).values()
        texts = dict.fromkeys(text for op in puts for text in self._texts(op))
        queries = dict.fromkeys(op.query for op in ops if isinstance(op, SearchOp) and op.query)
        return list(texts), list(queries)

    def _texts(self, op: PutOp) -> list[str]:
        """What is encoded of a value."""
        if self.embeddings is None or op.value is None or op.index is False:
            return []
        paths = self._fields if op.index is None else op.index
        found = (text for path in paths for text in get_text_at_path(op.value, path))
        return [text for text in dict.fromkeys(found) if text.strip()]

    def _encoded(self, texts: Sequence[str], rows: Sequence[Sequence[float]]) -> dict[str, Vectors]:
        return dict(zip(texts, unit_rows(rows, self._index.view.dim), strict=True)) if texts else {}

    def _execute(self, ops: Sequence[Op], keys: Mapping[str, Vectors], queries: Mapping[str, Vectors]) -> list[Result]:
        with self._writing:
            named = dict.fromkeys(_item_id(op.namespace, op.key) for op in ops if isinstance(op, GetOp | PutOp))
            before = {record.id: record for record in self._index.get(list(named))}
            results = [self._read(op, before, queries) for op in ops]
            self._put(_last_puts(ops), before, keys)
        return results

    def _read(self, op: Op, before: Mapping[str, Record], queries: Mapping[str, Vectors]) -> Result:
        if isinstance(op, GetOp):
            found = before.get(_item_id(op.namespace, op.key))
            if found is None or not self._is_there(found):
                return None
            self._refresh(op, [found])
            return _item(found)
        if isinstance(op, SearchOp):
            ranked = self._search(op, queries.get(op.query or ""))
            self._refresh(op, [record for record, _ in ranked])
            return [_found_item(record, hit) for record, hit in ranked]
        return self._list_namespaces(op) if isinstance(op, ListNamespacesOp) else None

    def _search(self, op: SearchOp, query: Vectors | None) -> list[tuple[Record, Hit | None]]:
        """The items that match: first those found by meaning, with their hits, then those that have none."""
        end = op.offset + op.limit
        ranked: list[tuple[Record, Hit | None]] = [] if query is None else list(self._ranked(op, query, end))
        if len(ranked) < end:
            rest = None if query is None else own("searched", "$eq", False)
            ranked += [(record, None) for record in self._newest(op, rest)]
        return ranked[op.offset : end]

    def _newest(self, op: SearchOp, filter: Filter | None) -> list[Record]:
        """The items that an operation asks for, whatever they mean."""
        found = [record for record in self._items(filter, op.namespace_prefix) if self._answers(record, op)]
        found.sort(key=lambda record: (record.namespace, record.payload["key"]))
        found.sort(key=lambda record: record.payload["updated_at"], reverse=True)
        return found

    def _ranked(self, op: SearchOp, query: Vectors, n: int) -> Iterator[tuple[Record, Hit]]:
        """The first n items by their best text; looks further down the ranking until it has them or its end."""
        seen: dict[str, Record | None] = {}
        k = 2 * n + 16
        found = 0
        while found < n:
            hits = self._index.search(query, k, within=op.namespace_prefix, filter=own("searched", "$eq", True))
            owners = {hit.id: hit.payload.get("item", hit.id) for hit in hits}
            new = [id for id in dict.fromkeys(owners.values()) if id not in seen]
            records = {record.id: record for record in self._index.get(new)}
            for hit in hits:
                id = owners[hit.id]
                if id in seen:
                    continue
                record = seen[id] = records.get(id)
                if record and self._answers(record, op):
                    found += 1
                    yield record, hit
                    if found == n:
                        return
            if len(hits) < k:
                return
            k *= 4

    def _answers(self, record: Record, op: SearchOp) -> bool:
        return self._is_there(record) and (not op.filter or matches(record.payload["value"], op.filter))

    def _list_namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        found = {record.namespace for record in self._items(None) if self._is_there(record)}
        matching = {namespace for namespace in found if all(fits(namespace, c) for c in op.match_conditions or ())}
        listed = sorted({namespace[: op.max_depth] for namespace in matching})
        return listed[op.offset : op.offset + op.limit]

    def _refresh(self, op: GetOp | SearchOp, read: Sequence[Record]) -> None:
        """Let what was read live on for its time to live."""
        lasting = [record.id for record in read if op.refresh_ttl and record.payload["ttl"] is not None]
        records = self._index.get(lasting, vectors=True)
        self._index.write([replace(record, fields=_fields(record.payload)) for record in records])

    def _put(self, puts: Mapping[str, PutOp], before: Mapping[str, Record], keys: Mapping[str, Vectors]) -> None:
        self._delete([before[id] for id, op in puts.items() if op.value is None and id in before])
        now = datetime.now(UTC).isoformat()
        records: list[Record] = []
        stale: list[str] = []
        for id, op in puts.items():
            if op.value is None:
                continue
            old = before.get(id)
            texts = self._texts(op)
            payload = {
                "key": op.key,
                "value": op.value,
                "created_at": old.payload["created_at"] if old and self._is_there(old) else now,
                "updated_at": now,
                "ttl": op.ttl,
                "texts": len(texts),
            }
            first, *others = texts or [""]
            vector = keys[first] if texts else placeholder(id, self._index.view.dim)
            records.append(Record(id, first, {}, payload, _fields(payload), op.namespace, vector))
            records += [
                Record(other, text, {}, {"item": id}, {"searched": True}, op.namespace, keys[text])
                for other, text in zip(_other_ids(id, len(texts)), others, strict=True)
            ]
            stale += _other_ids(id, old.payload["texts"])[len(others) :] if old else []
        if stale:
            self._index.delete(stale)
        self._index.write(records)

    def _delete(self, records: Sequence[Record]) -> None:
        ids = [id for record in records for id in (record.id, *_other_ids(record.id, record.payload["texts"]))]
        if ids:
            self._index.delete(ids)

    def _items(self, filter: Filter | None, prefix: Namespace = ()) -> list[Record]:
        return self._index.get(within=prefix, filter=all_of(own("item", "$eq", True), filter))

    def _is_there(self, record: Record) -> bool:
        return not self._omit_expired or float(record.fields["expires"]) > time.time()


def _last_puts(ops: Sequence[Op]) -> dict[str, PutOp]:
    return {_item_id(op.namespace, op.key): op for op in ops if isinstance(op, PutOp)}


def _item_id(namespace: Namespace, key: str) -> str:
    return content_id("item", namespace, key)


def _other_ids(item: str, texts: int) -> list[str]:
    """The ids of the records that an item has beyond its first text's."""
    return [content_id("text", item, number) for number in range(1, texts)]


def _fields(payload: Mapping[str, Any]) -> dict[str, Scalar]:
    """What an item's record is filtered on; its time to live begins now."""
    expires = _NEVER if payload["ttl"] is None else time.time() + payload["ttl"] * 60
    return {"item": True, "searched": payload["texts"] > 0, "expires": expires}


def _item(record: Record) -> Item:
    payload = record.payload
    return Item(
        value=payload["value"],
        key=payload["key"],
        namespace=record.namespace,
        created_at=datetime.fromisoformat(payload["created_at"]),
        updated_at=datetime.fromisoformat(payload["updated_at"]),
    )


def _found_item(record: Record, hit: Hit | None) -> SearchItem:
    item = _item(record)
    found = FoundItem(item.namespace, item.key, item.value, item.created_at, item.updated_at)
    if hit is not None:
        found.score, found.why = hit.score, hit.why
    return found


def _sweep_regularly(store: weakref.ref[QuadrieveStore], closed: threading.Event, seconds: float) -> None:
    while not closed.wait(seconds):
        living = store()
        if living is None:
            return
        with living._writing:
            if not closed.is_set():
                living.sweep_ttl()
        del living
