"""What other stores, retrievers and selectors get wrong, each as a test that ours does not."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from langchain_core.documents import Document
from langgraph.store.base import PutOp, SearchOp

from langchain_quadrieve import QuadrieveEmbeddings, QuadrieveExampleSelector, QuadrieveRetriever, QuadrieveStore


class Noise:
    """An embedder that costs nothing: vectors that are the same for the same text, and else unlike each other."""

    dim = 32
    fingerprint = "noise"

    def view(self, task):
        return self

    def embed_queries(self, texts):
        seeds = [int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") for text in texts]
        rows = np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds])
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    embed_keys = embed_queries

    def explain(self, text, side="query"):
        return text


@pytest.fixture
def store():
    with QuadrieveStore(embedder=Noise()) as opened:
        yield opened


@pytest.fixture
def retriever():
    return QuadrieveRetriever.from_location(None, embedder=Noise(), mode="dense", k=10)


def texts(documents):
    return sorted(document.page_content for document in documents)


def test_the_same_text_twice_in_a_batch(store, retriever):
    store.batch([PutOp(("a",), key, {"text": "same"}) for key in "xy"])
    assert [item.score for item in store.search(("a",), query="same")] == pytest.approx([1, 1], abs=1e-5)
    assert retriever.upsert([Document("same"), Document("same")])["failed"] == []
    assert texts(retriever.invoke("same")) == ["same"]
    [row, again] = QuadrieveEmbeddings(Noise()).embed_documents(["same", "same"])
    assert row == again


def test_an_update_leaves_no_old_vector_behind(store, retriever):
    store.put(("a",), "k", {"text": "old"})
    store.put(("a",), "k", {"text": "new"})
    [item] = store.search(("a",), query="old")
    assert item.score < 0.9
    retriever.upsert([Document("old", id="k", metadata={"stale": True})])
    retriever.upsert([Document("new", id="k", metadata={"fresh": True})])
    assert retriever.invoke("old") == [Document("new", id="k", metadata={"fresh": True})]
    assert retriever.invoke("new", min_score=0.9)
    assert retriever.invoke("old", min_score=0.9) == []


def test_an_update_without_index_leaves_no_old_vector_behind(store):
    store.put(("a",), "k", {"text": "old"})
    store.put(("a",), "k", {"text": "old"}, index=False)
    assert [item.score for item in store.search(("a",), query="old")] == [None]


def test_a_prefix_ends_at_a_segment(store):
    for namespace in [("acme",), ("acme-corp",), ("acme", "x"), ("acmex", "x")]:
        store.put(namespace, "k", {"text": "t"})
    for query in (None, "t"):
        found = store.search(("acme",), query=query)
        assert sorted(item.namespace for item in found) == [("acme",), ("acme", "x")]
    assert store.list_namespaces(prefix=("acme",)) == [("acme",), ("acme", "x")]


def test_scores_are_cosines_even_below_zero(store, retriever):
    view = Noise()
    opposite = next(f"t{i}" for i in range(99) if view.embed_keys([f"t{i}"])[0] @ view.embed_queries(["q"])[0] < -0.2)
    store.put(("a",), "k", {"text": opposite})
    retriever.score_key = "score"
    retriever.upsert([Document(opposite)])
    expected = float(view.embed_keys([opposite])[0] @ view.embed_queries(["q"])[0])
    assert store.search(("a",), query="q")[0].score == pytest.approx(expected, abs=1e-5)
    assert retriever.invoke("q")[0].metadata["score"] == pytest.approx(expected, abs=1e-5)


def test_nothing_to_do_is_no_error(store, retriever):
    assert store.batch([]) == []
    assert store.search(("nowhere",), query="x") == []
    assert QuadrieveEmbeddings(Noise()).embed_documents([]) == []
    assert retriever.upsert([]) == {"succeeded": [], "failed": []}
    assert retriever.invoke("x") == []
    assert retriever.get([]) == []
    assert retriever.delete([])["num_deleted"] == 0
    assert QuadrieveExampleSelector.from_examples([], embedder=Noise()).select_examples({"input": "x"}) == []


def test_generators_will_do(store):
    store.batch(PutOp(("a",), key, {"text": key}) for key in "xy")
    assert len(store.search(("a",))) == 2
    retriever = QuadrieveRetriever.from_documents((Document(text) for text in "xy"), embedder=Noise())
    assert texts(retriever.invoke("x")) == ["x", "y"]
    assert len(QuadrieveEmbeddings(Noise()).embed_documents(text for text in "xy")) == 2
    examples = ({"input": text, "output": text} for text in "xy")
    assert len(QuadrieveExampleSelector.from_examples(examples, embedder=Noise()).select_examples({"input": "x"})) == 2


def test_six_thousand_texts_at_once(store, retriever):
    many = [f"text {i}" for i in range(6000)]
    store.batch([PutOp(("a",), text, {"text": text}) for text in many])
    assert store.search(("a",), query="text 4711", limit=1)[0].key == "text 4711"
    assert len(retriever.upsert([Document(text) for text in many])["succeeded"]) == 6000
    assert texts(retriever.invoke("text 4711", k=1)) == ["text 4711"]
    assert len(store.search(("a",), query="text 1", limit=6000)) == 6000


def test_metadata_may_be_missing_or_nested(retriever):
    documents = [
        Document("bare", id="1"),
        Document("deep", id="2", metadata={"a": {"b": {"c": 1}}, "tags": ["x", "y"]}),
    ]
    retriever.upsert(documents)
    assert sorted(retriever.invoke("x"), key=lambda document: document.id) == documents
    assert texts(retriever.invoke("x", where={"a.b.c": 1})) == ["deep"]
    assert texts(retriever.invoke("x", where={"tags": {"$contains": "y"}})) == ["deep"]


def test_a_filter_may_have_two_keys(store, retriever):
    for n in range(4):
        metadata = {"even": n % 2 == 0, "n": n}
        store.put(("a",), str(n), {"text": str(n), **metadata})
        retriever.upsert([Document(str(n), metadata=metadata)])
    both = {"even": True, "n": {"$gt": 0}}
    assert [item.key for item in store.search(("a",), query="x", filter=both)] == ["2"]
    assert texts(retriever.invoke("x", where=both)) == ["2"]


def test_a_comparison_with_nothing_is_false_and_no_error(store):
    store.batch([PutOp(("a",), "k", {"n": None}), PutOp(("a",), "l", {})])
    for operator in ("$gt", "$gte", "$lt", "$lte"):
        assert store.search(("a",), filter={"n": {operator: 1}}) == []


def test_diversity_keeps_the_filter(retriever):
    retriever.upsert([Document(f"{n}", metadata={"n": n}) for n in range(20)])
    found = retriever.invoke("x", diversity=0.9, where={"n": {"$lt": 3}})
    assert texts(found) == ["0", "1", "2"]


def test_the_same_query_twice_in_a_batch_is_answered_twice(store):
    store.put(("a",), "k", {"text": "t"})
    first, second = store.batch([SearchOp((), query="t"), SearchOp((), query="t", limit=1)])
    assert first == second
