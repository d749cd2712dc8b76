"""A knowledge base where LlamaIndex wants a vector store: in an ingestion pipeline or under a `VectorStoreIndex`."""

# ruff: noqa: ARG002 - LlamaIndex passes every store the options of all of them

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from llama_index.core.schema import BaseNode, ImageNode, IndexNode
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from quadrieve import Hit, Index, InputError, KnowledgeBase, Record
from quadrieve.embedder import Vectors
from quadrieve.index.filters import own
from quadrieve.index.ranking import Mode

from .filters import select
from .nodes import DOCUMENT, from_record, to_record, unit

_MODES: dict[VectorStoreQueryMode, Mode] = {
    VectorStoreQueryMode.DEFAULT: "dense",
    VectorStoreQueryMode.MMR: "dense",
    VectorStoreQueryMode.HYBRID: "hybrid",
    VectorStoreQueryMode.TEXT_SEARCH: "lexical",
    VectorStoreQueryMode.SPARSE: "lexical",
}
_SAME_VECTOR = 0.98  # cosine: bfloat16 and batching cost far less, another model or side far more


class QuadrieveVectorStore(BasePydanticVectorStore):
    """The nodes of a knowledge base.

    A node of an id that is there already replaces it. Vectors that came with the nodes are kept, after one of
    each call was compared with the knowledge base's own: vectors of another model or role are refused.

    Args:
        knowledge_base: Where the nodes are kept.

    Example:
        >>> from llama_index.core.ingestion import IngestionPipeline
        >>> from llama_index.core.schema import Document
        >>> from llama_index_quadrieve import QuadrieveEmbedding, QuadrieveRetriever, QuadrieveVectorStore
        >>> embedding = QuadrieveEmbedding(role="knowledge")
        >>> kb = KnowledgeBase.open(None, embedder=embedding.embedder)
        >>> pipeline = IngestionPipeline(transformations=[embedding], vector_store=QuadrieveVectorStore(kb))
        >>> _ = pipeline.run(documents=[Document(text="Bees make honey from nectar.")])
        >>> QuadrieveRetriever(kb).retrieve("Where does honey come from?")[0].node.text
        'Bees make honey from nectar.'
    """

    stores_text: bool = True
    flat_metadata: bool = False
    knowledge_base: Any

    def __init__(self, knowledge_base: KnowledgeBase, **fields: Any) -> None:
        fields["knowledge_base"] = knowledge_base
        super().__init__(**fields)

    @classmethod
    def class_name(cls) -> str:
        """The name under which LlamaIndex serialises it."""
        return "QuadrieveVectorStore"

    @property
    def client(self) -> KnowledgeBase:
        """The knowledge base."""
        base: KnowledgeBase = self.knowledge_base
        return base

    @property
    def _index(self) -> Index:
        return self.client.index

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes; those without a vector are embedded here.

        Raises:
            InputError: If the nodes' vectors are not the knowledge base's.
        """
        records = [to_record(node) for node in nodes]
        self._check_vectors([record for record in records if record.vector is not None])
        return self._index.write(records) if records else []

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Write nodes, off the event loop."""
        return await asyncio.to_thread(self.add, nodes, **kwargs)

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete a document: what was cut from it, or its own node."""
        self._index.delete(filter=own(DOCUMENT, "$eq", ref_doc_id))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete a document, off the event loop."""
        await asyncio.to_thread(self.delete, ref_doc_id)

    def delete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter or both.

        Raises:
            InputError: If nothing says what to delete; `clear` deletes everything.
        """
        if node_ids is None and filters is None:
            raise InputError("Nothing says which nodes to delete; pass node_ids=[…] or filters=…, or call clear().")
        self._index.delete([record.id for record in self._get(node_ids, filters)])

    async def adelete_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes, off the event loop."""
        await asyncio.to_thread(self.delete_nodes, node_ids, filters)

    def get_nodes(self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None) -> list[BaseNode]:
        """Nodes by id (in that order), by filter or both, or all."""
        return [from_record(record) for record in self._get(node_ids, filters)]

    async def aget_nodes(
        self, node_ids: list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes, off the event loop."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    def clear(self) -> None:
        """Delete everything in the knowledge base."""
        self._index.delete(namespace=())

    async def aclear(self) -> None:
        """Delete everything, off the event loop."""
        await asyncio.to_thread(self.clear)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a query, scored by cosine similarity; without one, those that match its filters.

        `doc_ids` and `node_ids` both narrow the search. An empty list of documents finds nothing; an empty list of
        nodes, and one of index and image nodes alone, is what a `VectorStoreIndex` passes on its own account and
        narrows nothing.

        Raises:
            InputError: If the mode is none of the knowledge base's, or the query lacks what its mode ranks by.
        """
        documents = None if query.doc_ids is None else own(DOCUMENT, "$in", tuple(query.doc_ids))
        if query.doc_ids == []:
            return _result([])
        selection = select(query.filters, documents)
        ids = selection.ids(self._index, self._asked_nodes(query.node_ids))
        if query.query_embedding is None and not query.query_str:
            records = self._index.get(ids, filter=selection.filter)[: query.similarity_top_k]
            return VectorStoreQueryResult(
                nodes=[from_record(record) for record in records], ids=[record.id for record in records]
            )
        return _result(
            self._index.search(
                _asked(query),
                query.similarity_top_k,
                filter=selection.filter,
                ids=ids,
                mode=_MODES[query.mode],
                diversity=_diversity(query),
            )
        )

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """The nodes nearest to a query, off the event loop."""
        return await asyncio.to_thread(self.query, query, **kwargs)

    def _get(self, node_ids: list[str] | None, filters: MetadataFilters | None) -> list[Record]:
        selection = select(filters)
        return self._index.get(selection.ids(self._index, node_ids), filter=selection.filter)

    def _asked_nodes(self, node_ids: list[str] | None) -> list[str] | None:
        if not node_ids:
            return None
        of_index = [isinstance(node, IndexNode | ImageNode) for node in self.get_nodes(node_ids)]
        return None if of_index and all(of_index) else node_ids

    def _check_vectors(self, records: Sequence[Record]) -> None:
        if not records:
            return
        probe = min(records, key=lambda record: len(record.text))  # of a long text, the cut may differ
        assert probe.vector is not None
        if probe.vector.shape != (self._index.view.dim,):
            raise InputError(
                f"The node {probe.id!r} has a vector of shape {probe.vector.shape}, the knowledge base's have "
                f"({self._index.view.dim},); embed nodes with QuadrieveEmbedding over the same embedder and role."
            )
        cosine = float(self._index.embed_keys([probe.text])[0] @ probe.vector)
        if cosine < _SAME_VECTOR:
            raise InputError(
                f"The node {probe.id!r} was embedded by another model or role: its vector has cosine {cosine:.2f} "
                "with the knowledge base's of the same text; embed nodes with QuadrieveEmbedding over the same "
                "embedder and role."
            )


def _asked(query: VectorStoreQuery) -> str | Vectors:
    """What to rank by: the vector where meaning alone counts, the text where its words count too."""
    if query.mode not in _MODES:
        raise InputError(f"Unknown mode {query.mode.value!r}; expected one of {', '.join(m.value for m in _MODES)}.")
    if _MODES[query.mode] == "dense" and query.query_embedding is not None:
        return unit(query.query_embedding)
    if not query.query_str:
        raise InputError(f"The mode {query.mode.value!r} ranks by words; pass query_str.")
    return query.query_str


def _diversity(query: VectorStoreQuery) -> float | None:
    if query.mode is not VectorStoreQueryMode.MMR:
        return None
    return 1.0 - (0.5 if query.mmr_threshold is None else query.mmr_threshold)


def _result(hits: Sequence[Hit]) -> VectorStoreQueryResult:
    return VectorStoreQueryResult(
        nodes=[from_record(hit) for hit in hits],
        similarities=[hit.score for hit in hits],
        ids=[hit.id for hit in hits],
    )
