"""QuadrieveRetriever: nodes of a knowledge base, scored by cosine, in LlamaIndex's own engines."""

import numpy as np
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.schema import QueryBundle

from llama_index_quadrieve import QuadrieveRetriever
from quadrieve import KnowledgeBase


def test_scores_are_cosine_similarities_best_first(kb: KnowledgeBase) -> None:
    nodes = QuadrieveRetriever(kb, similarity_top_k=5, mode="dense").retrieve("Where does honey come from?")
    assert nodes[0].node.node_id == "bees"
    query = kb.index.view.embed_queries(["Where does honey come from?"])
    keys = kb.index.view.embed_keys([node.text for node in nodes])
    assert np.allclose([node.score for node in nodes], (keys @ query.T)[:, 0], atol=2e-2)
    assert [node.score for node in nodes] == sorted((node.score for node in nodes), reverse=True)


async def test_async_finds_the_same(kb: KnowledgeBase) -> None:
    retriever = QuadrieveRetriever(kb, similarity_top_k=2)
    found = await retriever.aretrieve("Where does honey come from?")
    assert [n.node_id for n in found] == [n.node_id for n in retriever.retrieve("Where does honey come from?")]


def test_the_callers_bundle_is_neither_read_nor_written(kb: KnowledgeBase) -> None:
    foreign = [1.0] + [0.0] * 383
    retriever = QuadrieveRetriever(kb, similarity_top_k=1)
    for vector in (None, foreign):
        bundle = QueryBundle("Where does honey come from?", embedding=vector)
        assert retriever.retrieve(bundle)[0].node_id == "bees"
        assert bundle.embedding == vector


def test_a_query_engine_answers_from_it(kb: KnowledgeBase) -> None:
    engine = RetrieverQueryEngine.from_args(QuadrieveRetriever(kb, similarity_top_k=1), llm=MockLLM())
    response = engine.query("Where does honey come from?")
    assert [node.node_id for node in response.source_nodes] == ["bees"]
    assert "nectar" in str(response)
