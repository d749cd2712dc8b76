"""A LlamaIndex retriever over a knowledge base."""

from __future__ import annotations

import asyncio
from typing import Any

from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle

from quadrieve import KnowledgeBase
from quadrieve.embedder import Vectors
from quadrieve.index.ranking import Mode

from .filters import FilterLike, select
from .nodes import scored, unit


class QuadrieveRetriever(BaseRetriever):
    """Nodes of a knowledge base that help with a query, scored by cosine similarity.

    The query is always embedded by the knowledge base's own role: a vector that another retriever left in
    the `QueryBundle` is not used, and none is left there.

    Args:
        knowledge_base: Where to look.
        similarity_top_k: How many nodes at most.
        mode: `hybrid` ranks by meaning and by words, `dense` by meaning alone, `lexical` by words alone.
        filters: LlamaIndex's `MetadataFilters`, or a filter as `KnowledgeBase.search` takes it.
        min_score: Only nodes with at least this cosine similarity.
        diversity: From 0 to 1: how much a node's likeness to those before it counts against it (MMR).
        options: What `BaseRetriever` takes: `callback_manager`, `object_map`, `objects`, `verbose`.

    Example:
        >>> from quadrieve import Embedder, KnowledgeBase
        >>> from llama_index_quadrieve import QuadrieveRetriever
        >>> kb = KnowledgeBase.open(None, embedder=Embedder.load())
        >>> _ = kb.add(["Bees make honey from nectar.", "The bus leaves at nine."])
        >>> QuadrieveRetriever(kb, similarity_top_k=1).retrieve("Where does honey come from?")[0].node.text
        'Bees make honey from nectar.'
    """

    def __init__(
        self,
        knowledge_base: KnowledgeBase,
        similarity_top_k: int = 5,
        mode: Mode = "hybrid",
        filters: FilterLike | None = None,
        min_score: float | None = None,
        diversity: float | None = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)
        self.knowledge_base = knowledge_base
        self.similarity_top_k = similarity_top_k
        self.mode = mode
        self.filters = filters
        self.min_score = min_score
        self.diversity = diversity

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        index = self.knowledge_base.index
        selection = select(self.filters)
        hits = index.search(
            self._asked(query_bundle),
            self.similarity_top_k,
            filter=selection.filter,
            ids=selection.ids(index),
            mode=self.mode,
            min_score=self.min_score,
            diversity=self.diversity,
        )
        return [scored(hit) for hit in hits]

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _asked(self, query_bundle: QueryBundle) -> str | Vectors:
        """The query's text, or the mean vector of the texts that a transformation put in its place."""
        texts = query_bundle.custom_embedding_strs
        if not texts or texts == [query_bundle.query_str] or self.mode == "lexical":
            return query_bundle.query_str
        return unit(self.knowledge_base.index.view.embed_queries(texts).mean(axis=0))
