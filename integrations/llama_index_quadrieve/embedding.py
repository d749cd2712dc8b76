"""An embedding for each role over one shared encoder."""

from __future__ import annotations

import asyncio
from typing import Any, Self

from llama_index.core.base.embeddings.base import BaseEmbedding, Embedding
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.storage.kvstore.types import BaseKVStore

from quadrieve import Embedder, EmbedderLike, FingerprintError, InputError, RoleView, ViewLike, find_task
from quadrieve.checkpoint import PACKAGED_NAME
from quadrieve.embedder import OnLong, Side

from .encoders import shared
from .side_cache import SideCache


class QuadrieveEmbedding(BaseEmbedding):
    """One role's two sides: queries and texts each get the prefix that the weights were trained with.

    Embeddings of the same checkpoint share its weights, so that one for each role costs no more than one.
    What decides over a vector (model, revision, role, prefixes, fingerprint) are fields: they are in
    `to_dict`, and thereby in the key of LlamaIndex's ingestion cache.

    Args:
        model: What `Embedder.load` takes: a hub id, a folder, `minilm`, or None for the default.
        role: A role (`knowledge`, `memory`, `example`, `tool`) or a task (`qa`, `convsearch`, …).
        embedder: An embedder of your own instead of `model`; a foreign one is not restored by `from_dict`.
        revision: Commit, tag or branch of a hub id.
        device: `cpu`, `cuda`, `mps`; None takes a GPU where there is one.
        dtype: `auto`, `float32`, `bfloat16` or `float16`.
        max_length: Tokens that a text may have, if fewer than the model reads.
        on_long: What to do with longer texts: `warn` (and cut), `error`, or `split` and take the mean.
        embeddings_cache: A key-value store of vectors; entries of another model, role or side are never found.
        fingerprint: The weights and prefixes that are expected; set when it is not given.

    Raises:
        FingerprintError: If the weights or prefixes are not those of `fingerprint`.
        ModelError: If the model cannot be found, read or trusted.
        InputError: If no role or task has that name.

    Example:
        >>> from llama_index_quadrieve import QuadrieveEmbedding
        >>> embedding = QuadrieveEmbedding(role="tool")
        >>> len(embedding.get_query_embedding("What is the weather in Oslo?"))
        384
    """

    model: str | None = None
    role: str = "knowledge"
    revision: str | None = None
    device: str | None = None
    dtype: str = "auto"
    max_length: int | None = None
    on_long: OnLong = "warn"
    query_prefix: str = ""
    key_prefix: str = ""
    fingerprint: str = ""
    embed_batch_size: int = Field(default=512, gt=0, le=2048)
    embedder: Any = Field(default=None, exclude=True, repr=False)
    embeddings_cache: Any = Field(default=None, exclude=True, repr=False)
    _view: ViewLike = PrivateAttr()

    def __init__(self, model: str | None = None, *, role: str = "knowledge", **fields: Any) -> None:
        fields |= {"model": model, "role": role}
        super().__init__(**fields)
        self._open()

    def _open(self) -> None:
        if self.embedder is None:
            self.embedder = Embedder.load(
                self.model, revision=self.revision, device=self.device, dtype=self.dtype, max_length=self.max_length
            )
        if not isinstance(self.embedder, EmbedderLike):
            raise InputError(
                f"embedder is {type(self.embedder).__name__}; expected Embedder.load(…) or anything with view(task)."
            )
        self.embedder = shared(self.embedder)
        self.model = self.model or _place(self.embedder)
        self.model_name = getattr(self.embedder, "name", type(self.embedder).__name__)
        self.role = find_task(self.role).name
        self._view = self.embedder.view(self.role)
        if self.fingerprint not in ("", self._view.fingerprint):
            raise FingerprintError(
                f"The embedding was made with fingerprint {self.fingerprint[:8]}, but {self.model_name!r} has "
                f"{self._view.fingerprint[:8]} now; name the model and revision that it was made with."
            )
        self.fingerprint = self._view.fingerprint
        self.query_prefix, self.key_prefix = self._view.explain("", "query"), self._view.explain("", "key")
        self.embeddings_cache = self.embeddings_cache  # wraps it: see __setattr__

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "embeddings_cache" and isinstance(value, BaseKVStore) and not isinstance(value, SideCache):
            value = SideCache(value, self.fingerprint, "key")
        super().__setattr__(name, value)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "QuadrieveEmbedding"

    def get_query_embedding(self, query: str) -> Embedding:
        """The vector of a query, behind the query side's prefix."""
        return BaseEmbedding.get_query_embedding(self._asking(), query)

    async def aget_query_embedding(self, query: str) -> Embedding:
        """The vector of a query, behind the query side's prefix."""
        return await BaseEmbedding.aget_query_embedding(self._asking(), query)

    def _asking(self) -> Self:
        """This embedding with the query side of its cache; LlamaIndex's own code reads one cache for both."""
        cache = self.embeddings_cache
        return self if cache is None else self.model_copy(update={"embeddings_cache": cache.of("query")})

    def _get_query_embedding(self, query: str) -> Embedding:
        return self._embed([query], "query")[0]

    async def _aget_query_embedding(self, query: str) -> Embedding:
        return (await asyncio.to_thread(self._embed, [query], "query"))[0]

    def _get_text_embedding(self, text: str) -> Embedding:
        return self._embed([text], "key")[0]

    async def _aget_text_embedding(self, text: str) -> Embedding:
        return (await asyncio.to_thread(self._embed, [text], "key"))[0]

    def _get_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return self._embed(texts, "key")

    async def _aget_text_embeddings(self, texts: list[str]) -> list[Embedding]:
        return await asyncio.to_thread(self._embed, texts, "key")

    def _embed(self, texts: list[str], side: Side) -> list[Embedding]:
        options = {"on_long": self.on_long} if isinstance(self._view, RoleView) else {}
        embed = self._view.embed_queries if side == "query" else self._view.embed_keys
        vectors: list[Embedding] = embed(texts, **options).tolist()
        return vectors


def _place(embedder: EmbedderLike) -> str | None:
    """What `Embedder.load` finds these weights by, as far as that can be said."""
    if not isinstance(embedder, Embedder):
        return None
    return PACKAGED_NAME if embedder.name == PACKAGED_NAME else str(embedder.checkpoint.folder)
