"""LangChain's own test suites, unmodified; no test in them is expected to fail."""

from __future__ import annotations

from typing import ClassVar

import pytest
from langchain_core.documents import Document
from langchain_tests.integration_tests import (
    EmbeddingsIntegrationTests,
    RetrieversIntegrationTests,
    ToolsIntegrationTests,
)
from langchain_tests.integration_tests.indexer import AsyncDocumentIndexTestSuite, DocumentIndexerTestSuite
from langchain_tests.unit_tests import EmbeddingsUnitTests, ToolsUnitTests

from langchain_quadrieve import QuadrieveEmbeddings, QuadrieveRetriever
from quadrieve import Embedder

EMBEDDER = Embedder.load()
DOCUMENTS = [Document(text) for text in ("Bees make honey.", "The bus leaves at nine.", "Rain falls.", "Cats sleep.")]


class TestEmbeddingsUnit(EmbeddingsUnitTests):
    embeddings_class = QuadrieveEmbeddings
    embedding_model_params: ClassVar = {"embedder": EMBEDDER}


class TestEmbeddingsIntegration(EmbeddingsIntegrationTests):
    embeddings_class = QuadrieveEmbeddings
    embedding_model_params: ClassVar = {"embedder": EMBEDDER, "task": "tool"}


class TestRetriever(RetrieversIntegrationTests):
    retriever_constructor = QuadrieveRetriever
    retriever_query_example = "Where does honey come from?"

    @property
    def retriever_constructor_params(self):
        return {"knowledge_base": QuadrieveRetriever.from_documents(DOCUMENTS, embedder=EMBEDDER).knowledge_base}


class TestDocumentIndex(DocumentIndexerTestSuite):
    @pytest.fixture
    def index(self):
        return QuadrieveRetriever.from_location(None, embedder=EMBEDDER)


class TestAsyncDocumentIndex(AsyncDocumentIndexTestSuite):
    @pytest.fixture
    async def index(self):
        return QuadrieveRetriever.from_location(None, embedder=EMBEDDER)


class RetrieverTool:
    tool_invoke_params_example: ClassVar = {"query": "Where does honey come from?"}

    @property
    def tool_constructor(self):
        return QuadrieveRetriever.from_documents(DOCUMENTS, embedder=EMBEDDER).as_tool()


class TestRetrieverToolUnit(RetrieverTool, ToolsUnitTests):
    pass


class TestRetrieverToolIntegration(RetrieverTool, ToolsIntegrationTests):
    pass
