"""An embeddings cache in which a text means another thing to another model, role or side."""

from __future__ import annotations

from typing import Any

from llama_index.core.storage.kvstore.types import DEFAULT_COLLECTION, BaseKVStore

from quadrieve.embedder import Side

Value = dict[str, Any]


class SideCache(BaseKVStore):
    """A key-value store of the caller's, read and written under a name of one view and one of its sides.

    LlamaIndex looks embeddings up by raw text alone, so that one store behind two roles, or behind
    the two sides of one, would hand out the vector of the other.

    Args:
        store: Where the vectors are kept.
        fingerprint: The view's: weights, pooling, prefixes.
        side: `query` or `key`.

    Example:
        >>> from llama_index.core.storage.kvstore import SimpleKVStore
        >>> keys = SideCache(SimpleKVStore(), "f1", "key")
        >>> keys.put("bees", {"vector": [1.0]})
        >>> keys.get("bees"), keys.of("query").get("bees")
        ({'vector': [1.0]}, None)
    """

    def __init__(self, store: BaseKVStore, fingerprint: str, side: Side) -> None:
        self.store = store
        self.fingerprint = fingerprint
        self.side = side

    def of(self, side: Side) -> SideCache:
        """The same store under the name of that side."""
        return SideCache(self.store, self.fingerprint, side)

    def _name(self, collection: str) -> str:
        return f"{collection}.{self.fingerprint}.{self.side}"

    def put(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        self.store.put(key, val, self._name(collection))

    async def aput(self, key: str, val: Value, collection: str = DEFAULT_COLLECTION) -> None:
        """Keep a value."""
        await self.store.aput(key, val, self._name(collection))

    def get(self, key: str, collection: str = DEFAULT_COLLECTION) -> Value | None:
        """The value, or None."""
        return self.store.get(key, self._name(collection))

    async def aget(self, key: str, collection: str = DEFAULT_COLLECTION) -> Value | None:
        """The value, or None."""
        return await self.store.aget(key, self._name(collection))

    def get_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, Value]:
        """All values of this view and side."""
        return self.store.get_all(self._name(collection))

    async def aget_all(self, collection: str = DEFAULT_COLLECTION) -> dict[str, Value]:
        """All values of this view and side."""
        return await self.store.aget_all(self._name(collection))

    def delete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Whether there was a value to delete."""
        return self.store.delete(key, self._name(collection))

    async def adelete(self, key: str, collection: str = DEFAULT_COLLECTION) -> bool:
        """Whether there was a value to delete."""
        return await self.store.adelete(key, self._name(collection))
