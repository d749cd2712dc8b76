"""QuadrieveVectorStore behaves as LlamaIndex's own vector stores do, where they do well.

Deliberate differences: an id that is there is replaced (ChromaVectorStore keeps the old row); `node_ids` and
`doc_ids` narrow a query (ChromaVectorStore ignores them); scores are cosine similarities, not `exp(-distance)`;
vectors of another model are refused; a mode that is not there is an error, never silently dense.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import (
    BaseNode,
    Document,
    ImageNode,
    IndexNode,
    NodeRelationship,
    RelatedNodeInfo,
    TextNode,
)
from llama_index.core.vector_stores.types import (
    MetadataFilter,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryMode,
    VectorStoreQueryResult,
)

from llama_index_quadrieve import QuadrieveEmbedding, QuadrieveVectorStore
from quadrieve import Embedder, InputError, KnowledgeBase

Ask = Callable[..., VectorStoreQueryResult]


def cut(document: str, id: str, text: str, **metadata: Any) -> TextNode:
    source = {NodeRelationship.SOURCE: RelatedNodeInfo(node_id=document)}
    return TextNode(id_=id, text=text, metadata=metadata, relationships=source)


NODES = [
    cut("films", "godfather", "A Mafia family in New York.", director="Coppola", rank="a", weight=1.0),
    cut("films", "inception", "Thieves who steal through dreams.", director="Nolan", rank="c", weight=2.0),
    cut("people", "curie", "Progress was neither swift nor easy.", author="Marie Curie", rank="c", weight=3.0),
    cut("people", "bronte", "I am no bird; and no net ensnares me.", author="Charlotte Bronte", rank="b", weight=4.0),
]


@pytest.fixture
def embedding(embedder: Embedder) -> QuadrieveEmbedding:
    return QuadrieveEmbedding(embedder=embedder, role="knowledge")


@pytest.fixture
def store(embedder: Embedder, embedding: QuadrieveEmbedding) -> QuadrieveVectorStore:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    store.add(embedding([node.model_copy() for node in NODES]))
    return store


@pytest.fixture
def ask(store: QuadrieveVectorStore, embedding: QuadrieveEmbedding) -> Ask:
    def ask(text: str = "a criminal family", k: int = 4, **options: Any) -> VectorStoreQueryResult:
        vector = embedding.get_query_embedding(text)
        return store.query(VectorStoreQuery(query_embedding=vector, query_str=text, similarity_top_k=k, **options))

    return ask


def where(*conditions: tuple[str, Any]) -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value) for key, value in conditions])


def test_all_nodes_come_back_nearest_first_with_their_cosine(ask: Ask, embedder: Embedder) -> None:
    result = ask()
    assert set(result.ids or ()) == {node.node_id for node in NODES}
    assert (result.ids or ())[0] == "godfather"
    view = embedder.view("qa")
    keys = view.embed_keys([node.get_content("embed") for node in result.nodes or ()])  # type: ignore[arg-type] # its value
    assert result.similarities == pytest.approx(
        (keys @ view.embed_queries(["a criminal family"])[0]).tolist(), abs=0.02
    )


def test_filters_narrow_before_the_top_k_is_taken(ask: Ask) -> None:
    assert set(ask(filters=where(("rank", "c"))).ids or ()) == {"inception", "curie"}
    assert ask(k=1, filters=where(("rank", "c"))).ids == ["inception"]
    assert ask(filters=where(("rank", "c"), ("weight", 3.0))).ids == ["curie"]
    assert ask(filters=where(("weight", 2), ("weight", 3))).ids == []
    assert ask(filters=where(("unknown_field", "c"))).ids == []


@pytest.mark.parametrize(
    ("documents", "expected"),
    [(None, {n.node_id for n in NODES}), ([], set()), (["missing"], set()), (["people"], {"curie", "bronte"})],
)
def test_a_query_can_be_held_to_documents(ask: Ask, documents: list[str] | None, expected: set[str]) -> None:
    assert set(ask(doc_ids=documents).ids or ()) == expected


def test_documents_nodes_and_filters_all_hold(ask: Ask) -> None:
    assert ask(node_ids=["bronte", "inception"]).ids is not None
    assert set(ask(node_ids=["bronte", "inception"]).ids or ()) == {"bronte", "inception"}
    assert ask(node_ids=["nobody"]).ids == []
    assert ask(node_ids=["bronte", "inception"], doc_ids=["people"], filters=where(("rank", "b"))).ids == ["bronte"]


def test_without_a_query_the_filters_alone_decide(store: QuadrieveVectorStore) -> None:
    result = store.query(VectorStoreQuery(filters=where(("author", "Marie Curie")), similarity_top_k=1))
    assert [node.node_id for node in result.nodes or ()] == ["curie"]


def test_deleting_a_document_takes_all_that_was_cut_from_it(store: QuadrieveVectorStore, ask: Ask) -> None:
    store.delete("films")
    assert set(ask().ids or ()) == {"curie", "bronte"}
    store.add([Document(doc_id="whole", text="A document of one piece.")])
    store.delete("whole")
    assert set(ask().ids or ()) == {"curie", "bronte"}


def test_nodes_are_got_and_deleted_by_id_and_filter(store: QuadrieveVectorStore) -> None:
    assert [n.node_id for n in store.get_nodes(["curie", "nobody", "godfather"])] == ["curie", "godfather"]
    store.delete_nodes(["curie"])
    store.delete_nodes(filters=where(("rank", "a")))
    assert {n.node_id for n in store.get_nodes()} == {"inception", "bronte"}
    with pytest.raises(InputError, match="Nothing says"):
        store.delete_nodes()
    store.clear()
    assert store.get_nodes() == []
    assert store.client.count() == 0


async def test_the_async_half_does_the_same(embedder: Embedder, embedding: QuadrieveEmbedding) -> None:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    await store.async_add(await embedding.acall([node.model_copy() for node in NODES]))
    vector = await embedding.aget_query_embedding("a criminal family")
    result = await store.aquery(VectorStoreQuery(query_embedding=vector, similarity_top_k=1))
    assert result.ids == ["godfather"]
    assert len(await store.aget_nodes()) == 4
    await store.adelete("films")
    await store.adelete_nodes(["curie"])
    assert [n.node_id for n in await store.aget_nodes()] == ["bronte"]
    await store.aclear()
    assert await store.aget_nodes() == []


def test_a_node_of_the_same_id_replaces_the_old_one(store: QuadrieveVectorStore, embedding: QuadrieveEmbedding) -> None:
    store.add(embedding([cut("films", "godfather", "Now a cooking show.", fresh=True)]))
    [node] = store.get_nodes(["godfather"])
    assert node.get_content() == "Now a cooking show."
    assert node.metadata == {"fresh": True}
    assert store.get_nodes(filters=where(("director", "Coppola"))) == []
    assert store.client.count() == 4


@pytest.mark.parametrize(
    "node",
    [
        TextNode(
            id_="n",
            text="A text.",
            metadata={"a": {"b": [1, "x", None]}, "c": 1.5},
            excluded_embed_metadata_keys=["c"],
            metadata_template="{key}={value}",
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(node_id="d", metadata={"k": 1}),
                NodeRelationship.NEXT: RelatedNodeInfo(node_id="next"),
                NodeRelationship.CHILD: [RelatedNodeInfo(node_id="child")],
            },
        ),
        IndexNode(id_="i", text="What lies behind.", index_id="behind", obj=TextNode(id_="o", text="Hidden.")),
        ImageNode(id_="p", text="A picture.", image_url="https://example.com/a.png"),
    ],
    ids=lambda node: type(node).__name__,
)
def test_a_node_comes_back_as_it_was(embedder: Embedder, node: BaseNode) -> None:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    store.add([node])
    [again] = store.get_nodes([node.node_id])
    assert type(again) is type(node)
    assert again.to_dict() == node.to_dict()
    assert again.hash == node.hash


def test_a_whole_document_comes_back_as_a_passage(embedder: Embedder) -> None:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    store.add([Document(doc_id="d", text="A document.", metadata={"a": 1})])
    [node] = store.get_nodes()
    assert isinstance(node, TextNode)
    assert (node.node_id, node.text, node.metadata) == ("d", "A document.", {"a": 1})


def refused(embedder: Embedder, nodes: Sequence[BaseNode], match: str) -> None:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    with pytest.raises(InputError, match=match):
        store.add(nodes)
    assert store.client.count() == 0


def test_vectors_of_another_model_role_or_length_are_refused(prefixed: Embedder) -> None:
    texts = [node.model_copy() for node in NODES]
    refused(prefixed, QuadrieveEmbedding(embedder=prefixed, role="memory")(texts), "another model or role")
    refused(prefixed, QuadrieveEmbedding(model="minilm")(texts), "another model or role")
    refused(prefixed, [TextNode(text="a", embedding=[1.0, 0.0])], "shape")


def test_what_has_no_such_mode_says_so(ask: Ask) -> None:
    with pytest.raises(InputError, match="Unknown mode 'svm'"):
        ask(mode=VectorStoreQueryMode.SVM)


def test_a_vector_store_index_stands_on_it(store: QuadrieveVectorStore, embedding: QuadrieveEmbedding) -> None:
    index = VectorStoreIndex.from_vector_store(store, embed_model=embedding)
    index.insert_nodes([cut("films", "up", "A house that flies away under balloons.")])
    retriever = index.as_retriever(similarity_top_k=1)
    assert retriever.retrieve("balloons carry a house")[0].node_id == "up"
    index.delete_ref_doc("films")
    assert retriever.retrieve("balloons carry a house")[0].node_id in ("curie", "bronte")


def test_an_index_built_from_nodes_writes_into_it(embedder: Embedder, embedding: QuadrieveEmbedding) -> None:
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    context = StorageContext.from_defaults(vector_store=store)
    VectorStoreIndex([node.model_copy() for node in NODES], storage_context=context, embed_model=embedding)
    assert store.client.count() == 4


def test_an_index_of_passages_and_objects_finds_both(embedder: Embedder, embedding: QuadrieveEmbedding) -> None:
    """It passes the ids of its objects with every query, which must not hide the passages."""
    store = QuadrieveVectorStore(KnowledgeBase.open(None, embedder=embedder))
    behind = IndexNode(text="All about balloons.", index_id="behind", obj=TextNode(id_="hidden", text="A hidden node."))
    index = VectorStoreIndex(
        [node.model_copy() for node in NODES],
        objects=[behind],
        storage_context=StorageContext.from_defaults(vector_store=store),
        embed_model=embedding,
    )
    retriever = index.as_retriever(similarity_top_k=1)
    assert retriever.retrieve("balloons")[0].node_id == "hidden"
    assert retriever.retrieve("a criminal family")[0].node_id == "godfather"


def test_a_hybrid_query_ranks_by_words_too(store: QuadrieveVectorStore, ask: Ask) -> None:
    """ChromaVectorStore answers it as if only meaning had been asked for."""
    store.add([TextNode(id_=f"error{n}", text=f"Error E-{n}: the pump has stopped.") for n in range(41, 49)])
    for mode in (VectorStoreQueryMode.HYBRID, VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.SPARSE):
        assert ask("E-47", k=1, mode=mode).ids == ["error47"]
