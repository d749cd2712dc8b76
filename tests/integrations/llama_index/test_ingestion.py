"""LlamaIndex's ingestion pipeline writes into a knowledge base: once, updated, deleted, in several processes."""

from collections.abc import Sequence
from typing import Any

import pytest
from llama_index.core.ingestion import DocstoreStrategy, IngestionCache, IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode, Document
from llama_index.core.storage.docstore import SimpleDocumentStore

from llama_index_quadrieve import QuadrieveEmbedding, QuadrieveRetriever, QuadrieveVectorStore
from quadrieve import Embedder, KnowledgeBase

BEES = Document(doc_id="bees", text="Bees make honey from nectar.", metadata={"topic": "animals"})
OSLO = Document(doc_id="oslo", text="Oslo lies at a fjord.", metadata={"topic": "places"})


@pytest.fixture
def empty(embedder: Embedder) -> KnowledgeBase:
    return KnowledgeBase.open(None, embedder=embedder)


def pipeline_into(kb: KnowledgeBase, **options: Any) -> IngestionPipeline:
    embedding = QuadrieveEmbedding(embedder=kb.index.view.embedder)  # type: ignore[attr-defined] # a real view
    steps = [SentenceSplitter(chunk_size=64, chunk_overlap=0), embedding]
    return IngestionPipeline(transformations=steps, vector_store=QuadrieveVectorStore(kb), **options)


def texts(kb: KnowledgeBase) -> set[str]:
    return {node.get_content() for node in QuadrieveVectorStore(kb).get_nodes()}


def test_unchanged_documents_are_skipped_and_changed_ones_replaced(empty: KnowledgeBase) -> None:
    pipeline = pipeline_into(empty, docstore=SimpleDocumentStore())
    assert len(pipeline.run(documents=[BEES, OSLO])) == 2
    assert pipeline.run(documents=[BEES, OSLO]) == []
    moved = Document(doc_id="oslo", text="Oslo has a new opera house.")
    assert len(pipeline.run(documents=[BEES, moved])) == 1
    assert texts(empty) == {BEES.text, moved.text}
    [found] = QuadrieveRetriever(empty, 1).retrieve("Where can I see an opera?")
    assert found.node.ref_doc_id == "oslo"


def test_documents_that_are_gone_are_deleted(empty: KnowledgeBase) -> None:
    options = {"docstore": SimpleDocumentStore(), "docstore_strategy": DocstoreStrategy.UPSERTS_AND_DELETE}
    pipeline = pipeline_into(empty, **options)
    pipeline.run(documents=[BEES, OSLO])
    pipeline.run(documents=[OSLO])
    assert texts(empty) == {OSLO.text}


async def test_the_async_pipeline_does_the_same(empty: KnowledgeBase) -> None:
    pipeline = pipeline_into(empty, docstore=SimpleDocumentStore())
    await pipeline.arun(documents=[BEES, OSLO])
    await pipeline.arun(documents=[BEES, OSLO])
    assert texts(empty) == {BEES.text, OSLO.text}


def test_long_documents_become_passages_that_know_their_neighbours(empty: KnowledgeBase) -> None:
    sentences = [f"Fact number {i} is about honey and bees in the garden of the old house." for i in range(12)]
    pipeline_into(empty).run(documents=[Document(doc_id="book", text=" ".join(sentences))])
    nodes = QuadrieveVectorStore(empty).get_nodes()
    assert len(nodes) > 2
    by_id = {node.node_id: node for node in nodes}
    linked = [node for node in nodes if node.next_node is not None]
    assert len(linked) == len(nodes) - 1
    assert all(by_id[n.next_node.node_id].prev_node.node_id == n.node_id for n in linked)  # type: ignore[union-attr] # above
    assert {node.ref_doc_id for node in nodes} == {"book"}


def test_the_ingestion_cache_gives_each_role_its_own_vectors(prefixed: Embedder) -> None:
    cache = IngestionCache()

    def vectors(role: str) -> list[list[float] | None]:
        embedding = QuadrieveEmbedding(embedder=prefixed, role=role)
        run = IngestionPipeline(transformations=[embedding], cache=cache).run(nodes=[BEES.model_copy()])
        return [node.embedding for node in run]

    first = {role: vectors(role) for role in ("knowledge", "memory", "tool")}
    assert len({str(rows) for rows in first.values()}) == 3
    assert {role: vectors(role) for role in first} == first


@pytest.mark.models
def test_several_workers_embed_with_the_pickled_embedding(empty: KnowledgeBase) -> None:
    """Without a splitter: LlamaIndex's own is not picklable, and waits for its workers for ever."""
    documents: Sequence[Document] = [Document(doc_id=str(i), text=f"Passage {i} about honey.") for i in range(6)]
    pipeline = pipeline_into(empty)
    pipeline.transformations = pipeline.transformations[1:]
    nodes: Sequence[BaseNode] = pipeline.run(documents=list(documents), num_workers=2)
    assert len(nodes) == len(documents) == empty.count()
    [found] = QuadrieveRetriever(empty, 1).retrieve("Passage 4 about honey.")
    assert found.text == "Passage 4 about honey."
