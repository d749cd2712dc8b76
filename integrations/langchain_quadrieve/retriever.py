"""A knowledge base as a LangChain retriever that can also be written to."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.indexing import DeleteResponse, UpsertResponse
from langchain_core.indexing.base import DocumentIndex
from langchain_core.retrievers import LangSmithRetrieverParams
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool, create_retriever_tool
from pydantic import ConfigDict

from quadrieve import EmbedderLike, Hit, InputError, KnowledgeBase
from quadrieve.index.location import Location
from quadrieve.index.ranking import Mode


class QuadrieveRetriever(DocumentIndex):
    """Passages of a knowledge base as documents, best first.

    Every setting holds for all calls, and can be given anew for one: `retriever.invoke("…", k=1, mode="dense")`.
    It is a `DocumentIndex`, so LangChain's `index()` keeps it in step with its sources.

    Attributes:
        knowledge_base: What is searched.
        k: How many documents at most.
        where: Filter on metadata, as `KnowledgeBase.search` takes it.
        mode: How to rank: `hybrid`, `dense` or `lexical`.
        min_score: Only documents with at least this cosine similarity.
        diversity: From 0 to 1: how much a document's likeness to those before it counts against it (MMR).
        score_key: Where in a document's metadata to put its score; None leaves it out.
        why_key: Where in a document's metadata to put which ranker found it at which rank; None leaves it out.

    Example:
        >>> from quadrieve import Embedder
        >>> documents = [Document("Bees make honey."), Document("The bus leaves at nine.")]
        >>> retriever = QuadrieveRetriever.from_documents(documents, embedder=Embedder.load(), k=1)
        >>> retriever.invoke("Where does honey come from?")[0].page_content
        'Bees make honey.'
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

    knowledge_base: KnowledgeBase
    k: int = 5
    where: Mapping[str, Any] | None = None
    mode: Mode = "hybrid"
    min_score: float | None = None
    diversity: float | None = None
    score_key: str | None = None
    why_key: str | None = None

    @classmethod
    def from_location(
        cls,
        location: Location,
        *,
        embedder: EmbedderLike,
        name: str = "default",
        task: str | None = None,
        **settings: Any,
    ) -> Self:
        """Open the knowledge base of a location, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: The embedder that it was made with.
            name: Tells several knowledge bases of one location apart.
            task: `qa` (the default), `convsearch`, or a registered task of the role knowledge.
            settings: The retriever's own.

        Raises:
            StoreError: If the location holds something else (`FingerprintError`: another embedder's index).
        """
        return cls(knowledge_base=KnowledgeBase.open(location, embedder=embedder, name=name, task=task), **settings)

    @classmethod
    def from_documents(
        cls, documents: Iterable[Document], *, embedder: EmbedderLike, location: Location = None, **settings: Any
    ) -> Self:
        """Open a location's knowledge base and write documents to it; takes what `from_location` does."""
        retriever = cls.from_location(location, embedder=embedder, **settings)
        retriever.upsert(list(documents))
        return retriever

    @classmethod
    async def afrom_documents(
        cls, documents: Iterable[Document], *, embedder: EmbedderLike, location: Location = None, **settings: Any
    ) -> Self:
        """`from_documents` in a thread."""
        return await run_in_executor(
            None, cls.from_documents, documents, embedder=embedder, location=location, **settings
        )

    def upsert(self, items: Sequence[Document], /, **kwargs: Any) -> UpsertResponse:  # noqa: ARG002  # LangChain's
        """Write documents; one whose id is there is replaced, one without an id gets one made of its content."""
        if not items:
            return UpsertResponse(succeeded=[], failed=[])
        texts, metadatas = [item.page_content for item in items], [item.metadata for item in items]
        ids: list[Any] = [item.id for item in items]
        return UpsertResponse(succeeded=self.knowledge_base.add(texts, ids, metadatas), failed=[])

    def delete(
        self,
        ids: list[str] | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        **kwargs: Any,  # noqa: ARG002
    ) -> DeleteResponse:
        """Delete documents by id, by filter or both; ids that are not there are no failure.

        Raises:
            InputError: If nothing says what to delete.
        """
        if ids is None:
            return DeleteResponse(num_deleted=self.knowledge_base.delete(where=where), num_failed=0, failed=[])
        found = [document.id for document in self.get(ids) if document.id]
        deleted = self.knowledge_base.delete(found, where) if found else 0
        left = {document.id for document in self.get(found)}
        gone = [id for id in found if id not in left]
        return DeleteResponse(num_deleted=deleted, succeeded=gone, num_failed=0, failed=[])

    def get(self, ids: Sequence[str], /, **kwargs: Any) -> list[Document]:  # noqa: ARG002  # LangChain's
        """Documents by id, those that are there."""
        records = self.knowledge_base.index.get(list(dict.fromkeys(ids)))
        return [Document(record.text, id=record.id, metadata=dict(record.metadata)) for record in records]

    def as_tool(
        self,
        args_schema: Any = None,
        *,
        name: str | None = None,
        description: str | None = None,
        arg_types: dict[str, type] | None = None,
    ) -> BaseTool:
        """A tool that a model can search with; the documents themselves are the message's artifact.

        Args:
            args_schema: Not taken: the tool has one argument, `query`.
            name: What the model calls it.
            description: What there is to find, in a sentence.
            arg_types: Not taken.

        Raises:
            InputError: If a schema is given.
        """
        if args_schema is not None or arg_types is not None:
            raise InputError("The tool's one argument is query; leave args_schema and arg_types out.")
        return create_retriever_tool(
            self,
            name or "search_knowledge",
            description or "Search the knowledge base for passages that answer a question.",
            response_format="content_and_artifact",
        )

    def _get_ls_params(self, **kwargs: Any) -> LangSmithRetrieverParams:
        return LangSmithRetrieverParams(
            **super()._get_ls_params(**kwargs),
            ls_vector_store_provider="quadrieve",
            ls_embedding_provider="quadrieve",
            ls_embedding_model=repr(self.knowledge_base.index.view),
        )

    def _get_relevant_documents(
        self,
        query: str,
        *,
        run_manager: CallbackManagerForRetrieverRun,  # noqa: ARG002  # LangChain passes it by this name
        **settings: Any,
    ) -> list[Document]:
        return [self._document(hit) for hit in self.knowledge_base.search(query, **(self._settings() | settings))]

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **settings: Any
    ) -> list[Document]:
        def search() -> list[Document]:
            return self._get_relevant_documents(query, run_manager=run_manager.get_sync(), **settings)

        return await run_in_executor(None, search)

    def _settings(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("k", "where", "mode", "min_score", "diversity")}

    def _document(self, hit: Hit) -> Document:
        metadata = dict(hit.metadata)
        if self.score_key:
            metadata[self.score_key] = hit.score
        if self.why_key:
            metadata[self.why_key] = dict(hit.why)
        return Document(hit.text, id=hit.id, metadata=metadata)
