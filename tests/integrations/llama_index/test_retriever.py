"""QuadrieveRetriever: nodes of a knowledge base, scored by cosine, in LlamaIndex's own engines and retrievers.

A deliberate difference: a vector in the caller's `QueryBundle` is not used, since nobody knows whose it is.
"""

from pathlib import Path

import chromadb
import numpy as np
import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.indices.query.query_transform.base import BaseQueryTransform
from llama_index.core.llms import MockLLM
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever, QueryFusionRetriever, RouterRetriever, TransformRetriever
from llama_index.core.retrievers.fusion_retriever import FUSION_MODES
from llama_index.core.schema import IndexNode, NodeRelationship, NodeWithScore, QueryBundle, RelatedNodeInfo, TextNode
from llama_index.core.selectors import EmbeddingSingleSelector
from llama_index.core.tools import RetrieverTool
from llama_index.vector_stores.chroma import ChromaVectorStore

from llama_index_quadrieve import QuadrieveEmbedding, QuadrieveRetriever, QuadrieveVectorStore
from quadrieve import Embedder, KnowledgeBase

HONEY = "Where does honey come from?"
FOREIGN = [1.0] + [0.0] * 383


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


@pytest.mark.parametrize("mode", ["dense", "hybrid", "lexical"])
def test_scores_are_cosine_similarities_whatever_ranks(kb: KnowledgeBase, mode: str) -> None:
    nodes = QuadrieveRetriever(kb, similarity_top_k=5, mode=mode).retrieve(HONEY)
    assert nodes[0].node_id == "bees"
    keys = kb.index.view.embed_keys([node.text for node in nodes])
    cosines = keys @ kb.index.view.embed_queries([HONEY])[0]
    assert np.allclose([node.score for node in nodes], cosines, atol=2e-2)
    if mode == "dense":
        assert [node.score for node in nodes] == sorted((node.score or 0 for node in nodes), reverse=True)


async def test_async_finds_the_same(kb: KnowledgeBase) -> None:
    retriever = QuadrieveRetriever(kb, similarity_top_k=2)
    assert ids(await retriever.aretrieve(HONEY)) == ids(retriever.retrieve(HONEY))


def test_a_floor_on_the_score_holds(kb: KnowledgeBase) -> None:
    assert ids(QuadrieveRetriever(kb, min_score=0.4, mode="dense").retrieve(HONEY)) == ["bees"]
    assert QuadrieveRetriever(kb, min_score=0.99).retrieve(HONEY) == []


def test_the_callers_bundle_is_neither_read_nor_written(kb: KnowledgeBase) -> None:
    retriever = QuadrieveRetriever(kb, similarity_top_k=1)
    for vector in (None, FOREIGN):
        bundle = QueryBundle(HONEY, embedding=vector)
        assert ids(retriever.retrieve(bundle)) == ["bees"]
        assert bundle.embedding == vector


def test_texts_that_a_transformation_put_in_place_of_the_query_are_searched(kb: KnowledgeBase) -> None:
    class Hypothesis(BaseQueryTransform):
        def _run(self, query_bundle: QueryBundle, metadata: dict[str, object]) -> QueryBundle:
            return QueryBundle(query_bundle.query_str, custom_embedding_strs=["The tides follow the moon."])

        def _get_prompts(self) -> dict[str, object]:
            return {}

        def _update_prompts(self, prompts: dict[str, object]) -> None: ...

    retriever = TransformRetriever(QuadrieveRetriever(kb, similarity_top_k=1), Hypothesis())
    assert ids(retriever.retrieve(HONEY)) == ["moon"]


def test_nodes_keep_metadata_and_relationships(embedder: Embedder) -> None:
    kb = KnowledgeBase.open(None, embedder=embedder)
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id="book")}
    shared = [
        TextNode(id_=f"n{i}", text="Shared words.", relationships=source, metadata={"page": {"number": i}})
        for i in range(2)
    ]
    QuadrieveVectorStore(kb).add(shared)
    found = QuadrieveRetriever(kb).retrieve("shared")
    assert {n.node_id: (n.node.ref_doc_id, n.metadata) for n in found} == {
        "n0": ("book", {"page": {"number": 0}}),
        "n1": ("book", {"page": {"number": 1}}),
    }


def test_passages_added_without_llama_index_are_found_too(kb: KnowledgeBase) -> None:
    [node] = QuadrieveRetriever(kb, similarity_top_k=1).retrieve(HONEY)
    assert (node.text, node.metadata) == ("Bees make honey from the nectar of flowers.", {"letters": 4})


@pytest.mark.parametrize("is_async", [False, True])
async def test_an_index_node_leads_to_its_object(kb: KnowledgeBase, embedder: Embedder, is_async: bool) -> None:
    above = KnowledgeBase.open(None, embedder=embedder)
    QuadrieveVectorStore(above).add([IndexNode(text="About animals and food.", index_id="below")])
    retriever = QuadrieveRetriever(above, object_map={"below": QuadrieveRetriever(kb, similarity_top_k=1)})
    assert ids(await retriever.aretrieve(HONEY) if is_async else retriever.retrieve(HONEY)) == ["bees"]


async def test_a_query_engine_answers_from_it(kb: KnowledgeBase) -> None:
    engine = RetrieverQueryEngine.from_args(QuadrieveRetriever(kb, similarity_top_k=1), llm=MockLLM())
    for response in (engine.query(HONEY), await engine.aquery(HONEY)):
        assert ids(response.source_nodes) == ["bees"]
        assert "nectar" in str(response)


def stock_index(nodes: list[TextNode], role: str, embedder: Embedder, folder: Path) -> VectorStoreIndex:
    collection = chromadb.PersistentClient(folder).create_collection(
        "stock", configuration={"hnsw": {"space": "cosine"}}
    )
    context = StorageContext.from_defaults(vector_store=ChromaVectorStore(collection))
    return VectorStoreIndex(
        nodes, storage_context=context, embed_model=QuadrieveEmbedding(embedder=embedder, role=role)
    )


def two_roles_and_a_stock_index(prefixed: Embedder, tmp_path: Path) -> list[BaseRetriever]:
    """Three retrievers of one query, each with vectors of its own; the stock one leaves its vector in the bundle."""
    texts = ["Bees make honey.", "The moon causes the tides.", "Oslo is in Norway."]
    bases = [KnowledgeBase.open(None, embedder=prefixed, task=task) for task in ("qa", "convsearch")]
    for base in bases:
        base.add(texts)
    stock = stock_index([TextNode(text=text) for text in texts], "memory", prefixed, tmp_path)
    return [stock.as_retriever(similarity_top_k=3), *(QuadrieveRetriever(base, 3, mode="dense") for base in bases)]


@pytest.mark.parametrize("is_async", [False, True])
async def test_a_fusion_over_several_roles_ranks_each_with_its_own_vector(
    prefixed: Embedder, tmp_path: Path, is_async: bool
) -> None:
    retrievers = two_roles_and_a_stock_index(prefixed, tmp_path)
    alone = [[node.score for node in retriever.retrieve(HONEY)] for retriever in retrievers]
    heard: list[list[float | None]] = []

    class Listening(BaseRetriever):
        def __init__(self, behind: BaseRetriever) -> None:
            super().__init__()
            self.behind = behind

        def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            found = self.behind.retrieve(query_bundle)
            heard.append([node.score for node in found])
            return found

        async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
            found = await self.behind.aretrieve(query_bundle)
            heard.append([node.score for node in found])
            return found

    fusion = QueryFusionRetriever(
        [Listening(retriever) for retriever in retrievers],
        llm=MockLLM(),
        mode=FUSION_MODES.RECIPROCAL_RANK,
        num_queries=1,
        use_async=False,
    )
    found = await fusion.aretrieve(HONEY) if is_async else fusion.retrieve(HONEY)
    assert found[0].text == "Bees make honey."
    for scores in alone:
        assert any(np.allclose(scores, other, atol=2e-2) for other in heard)
    assert len(heard) == 3


async def test_a_router_chooses_between_two(kb: KnowledgeBase, embedder: Embedder) -> None:
    other = KnowledgeBase.open(None, embedder=embedder)
    other.add(["The tram to the harbour leaves at nine."], ids=["tram"])
    tools = [
        RetrieverTool.from_defaults(QuadrieveRetriever(kb, 1), description="Nature, animals, food and science."),
        RetrieverTool.from_defaults(QuadrieveRetriever(other, 1), description="Timetables of trams and buses."),
    ]
    selector = EmbeddingSingleSelector.from_defaults(embed_model=QuadrieveEmbedding(embedder=embedder))
    router = RouterRetriever(selector, tools, llm=MockLLM())
    assert ids(router.retrieve("When does the bus go?")) == ["tram"]
    assert ids(await router.aretrieve("What do animals like bees make?")) == ["bees"]


def test_our_embedding_serves_the_stock_chroma_index(prefixed: Embedder, tmp_path: Path) -> None:
    texts = [TextNode(text="Bees make honey."), TextNode(text="The moon causes the tides.")]
    [node] = stock_index(texts, "knowledge", prefixed, tmp_path).as_retriever(similarity_top_k=1).retrieve(HONEY)
    assert node.text == "Bees make honey."
    view = prefixed.view("qa")
    cosine = float(view.embed_keys(["Bees make honey."])[0] @ view.embed_queries([HONEY])[0])
    assert node.score == pytest.approx(np.exp(-(1 - cosine)), abs=0.02)  # Chroma's own way of scoring
