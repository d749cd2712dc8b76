"""A knowledge base as a LangChain retriever."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables.config import run_in_executor

from quadrieve import Hit, KnowledgeBase
from quadrieve.index.index import Mode


class QuadrieveRetriever(BaseRetriever):
    """Passages of a knowledge base as documents, best first.

    Every setting holds for all calls, and can be given anew for one: `retriever.invoke("…", k=1)`.

    Example:
        >>> from quadrieve import Embedder, KnowledgeBase
        >>> kb = KnowledgeBase.open(None, embedder=Embedder.load())
        >>> _ = kb.add(["Bees make honey.", "The bus leaves at nine."])
        >>> QuadrieveRetriever(knowledge_base=kb, k=1).invoke("Where does honey come from?")[0].page_content
        'Bees make honey.'
    """

    knowledge_base: KnowledgeBase
    k: int = 5
    where: Mapping[str, Any] | None = None
    mode: Mode = "dense"
    min_score: float | None = None
    score_key: str | None = None
    """Where in a document's metadata to put its score; None leaves it out."""
    why_key: str | None = None
    """Where in a document's metadata to put which ranker found it at which rank; None leaves it out."""

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002  # LangChain passes it by this name
        **options: Any,
    ) -> list[Document]:
        settings = {"k": self.k, "where": self.where, "mode": self.mode, "min_score": self.min_score}
        return [self._document(hit) for hit in self.knowledge_base.search(query, **(settings | options))]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **options: Any
    ) -> list[Document]:
        return await run_in_executor(
            None, lambda: self._get_relevant_documents(query, run_manager=run_manager.get_sync(), **options)
        )

    def _document(self, hit: Hit) -> Document:
        metadata = dict(hit.metadata)
        if self.score_key:
            metadata[self.score_key] = hit.score
        if self.why_key:
            metadata[self.why_key] = dict(hit.why)
        return Document(id=hit.id, page_content=hit.text, metadata=metadata)
