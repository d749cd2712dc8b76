"""The store keeps LangGraph's promises, and those that its other stores break."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from langchain_core.embeddings import DeterministicFakeEmbedding, Embeddings
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_quadrieve import QuadrieveStore
from quadrieve import FingerprintError, InputError

FAKE = DeterministicFakeEmbedding(size=16)


class Directions(Embeddings):
    """Texts are numbers of degrees; the vector points that way."""

    def embed_documents(self, texts):
        return [[np.cos(np.radians(float(text))), np.sin(np.radians(float(text)))] for text in texts]

    def embed_query(self, text):
        return self.embed_documents([text])[0]


@pytest.fixture
def store():
    with QuadrieveStore(index={"dims": 16, "embed": FAKE}) as opened:
        yield opened


@pytest.fixture
def compass():
    with QuadrieveStore(index={"dims": 2, "embed": Directions(), "fields": ["text", "other", "many[*]"]}) as opened:
        yield opened


def keys(items):
    return [item.key for item in items]


def test_what_was_put_is_there_after_a_restart(tmp_path, embedder):
    with QuadrieveStore(tmp_path, embedder=embedder) as store:
        store.put(("ada",), "dog", {"text": "My dog is called Biscuit.", "nested": {"a": [1, None, {"b": "ü"}]}})
        before = store.get(("ada",), "dog")
    with QuadrieveStore(tmp_path, embedder=embedder) as store:
        assert store.get(("ada",), "dog") == before
        assert keys(store.search(("ada",), query="What is my pet's name?")) == ["dog"]


def test_what_was_deleted_can_be_erased(tmp_path, embedder):
    with QuadrieveStore(tmp_path, embedder=embedder) as store:
        store.put(("ada",), "secret", {"text": "The safe opens with 4711-swordfish."})
        store.put(("ada",), "dog", {"text": "My dog is called Biscuit."})
        store.delete(("ada",), "secret")
        store.rebuild()
        assert keys(store.search(("ada",), query="dog")) == ["dog"]
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"swordfish" in path.read_bytes()]


def test_another_embedder_is_refused(tmp_path, embedder):
    QuadrieveStore(tmp_path, embedder=embedder).close()
    with pytest.raises(FingerprintError):
        QuadrieveStore(tmp_path, index={"dims": 16, "embed": FAKE})
    with pytest.raises(FingerprintError):
        QuadrieveStore(tmp_path)


def test_reads_of_a_batch_see_what_was_there_before_and_the_last_put_wins(store):
    store.put(("a",), "k", {"v": 0})
    results = store.batch(
        [
            PutOp(("a",), "k", {"v": 1}),
            GetOp(("a",), "k"),
            PutOp(("a",), "k", {"v": 2}),
            SearchOp(("a",)),
            PutOp(("a",), "gone", {"v": 3}),
            PutOp(("a",), "gone", None),
            ListNamespacesOp(),
            GetOp(("a",), "gone"),
        ]
    )
    assert [results[0], results[2], results[4], results[5], results[7]] == [None] * 5
    assert results[1].value == {"v": 0}
    assert [item.value for item in results[3]] == [{"v": 0}]
    assert results[6] == [("a",)]
    assert store.get(("a",), "k").value == {"v": 2}
    assert store.get(("a",), "gone") is None


def test_an_update_keeps_created_at(store):
    store.put(("a",), "k", {"v": 1})
    first = store.get(("a",), "k")
    store.put(("a",), "k", {"v": 2})
    second = store.get(("a",), "k")
    assert second.created_at == first.created_at
    assert second.updated_at > first.updated_at


def test_prefixes_end_at_a_segment(store):
    for namespace in [("acme",), ("acme", "x"), ("acme-corp",), ("acme-corp", "x"), ("b", "acme")]:
        store.put(namespace, "k", {"text": "secret"})
    for query in (None, "secret"):
        assert {item.namespace for item in store.search(("acme",), query=query)} == {("acme",), ("acme", "x")}
    assert {item.namespace for item in store.search(["acme", "x"])} == {("acme", "x")}
    assert len(store.search(())) == 5


def test_an_item_that_is_no_longer_indexed_is_no_longer_found_by_its_old_text(compass):
    compass.put(("a",), "k", {"text": "0"})
    compass.put(("a",), "other", {"text": "90"})
    compass.put(("a",), "k", {"text": "0"}, index=False)
    assert [(item.key, item.score) for item in compass.search(("a",), query="0")] == [
        ("other", pytest.approx(0, abs=1e-6)),
        ("k", None),
    ]
    compass.put(("a",), "k", {"text": "0"})
    assert compass.search(("a",), query="0", limit=1)[0].score == pytest.approx(1)


def test_an_item_of_several_texts_is_as_near_as_its_nearest(compass):
    compass.put(("a",), "k", {"text": "180", "other": "90", "many": ["170", "20"]})
    compass.put(("a",), "l", {"text": "45"})
    [first, second] = compass.search(("a",), query="10")
    assert (first.key, second.key) == ("k", "l")
    assert first.score == pytest.approx(np.cos(np.radians(10)), abs=1e-5)
    compass.put(("a",), "k", {"text": "180"})
    assert keys(compass.search(("a",), query="10")) == ["l", "k"]


def test_scores_below_zero_are_reported_as_they_are(compass):
    compass.put(("a",), "k", {"text": "180"})
    assert compass.search(("a",), query="0")[0].score == pytest.approx(-1)


def test_the_same_text_twice_in_one_batch_is_encoded_once(store):
    store.batch([PutOp(("a",), f"k{i}", {"text": "the same"}) for i in range(3)])
    assert {item.score for item in store.search(("a",), query="x")} == {store.search(("a",), query="x")[0].score}
    assert len(store.search(("a",), query="x")) == 3


def test_a_search_by_meaning_looks_on_until_enough_items_match(compass):
    with_filter = {"n": {"$gte": 95}}
    compass.batch([PutOp(("a",), f"k{n}", {"text": str(n), "n": n}) for n in range(100)])
    assert keys(compass.search(("a",), query="0", filter=with_filter, limit=3)) == ["k95", "k96", "k97"]
    assert keys(compass.search(("a",), query="0", filter=with_filter, limit=3, offset=3)) == ["k98", "k99"]


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"n": 1}, "a"),
        ({"n": {"$ne": 1}}, "bcd"),
        ({"n": {"$gt": 1}}, "b"),
        ({"n": {"$gte": 1, "$lt": 2}}, "a"),
        ({"n": {"$lte": 2}}, "a"),
        ({"n": {"$gt": None}}, ""),
        ({"deep": {"x": {"y": 1}}}, "a"),
        ({"deep": {"x": {"y": {"$gt": 1}}}}, "b"),
        ({"tags": ["p", "q"]}, "a"),
        ({"at": {"$gte": "2026-02-01"}}, "b"),
        ({"n": {"$gte": 0}, "at": "2026-01-01"}, "a"),
        ({"missing": None}, "abcd"),
        ({"flag": True}, "c"),
    ],
)
@pytest.mark.parametrize("query", [None, "anything"])
def test_filters(store, wanted, found, query):
    values = {
        "a": {"text": "1", "n": 1, "deep": {"x": {"y": 1}}, "tags": ["p", "q"], "at": "2026-01-01"},
        "b": {"text": "2", "n": 2.5, "deep": {"x": {"y": 2}}, "tags": ["q"], "at": "2026-03-01"},
        "c": {"text": "3", "n": None, "flag": True, "deep": "x"},
        "d": {"text": "4"},
    }
    store.batch([PutOp(("ns",), key, value) for key, value in values.items()])
    assert sorted(keys(store.search(("ns",), filter=wanted, query=query))) == list(found)


def test_an_unknown_operator_is_an_error(store):
    store.put(("a",), "k", {"n": 1})
    with pytest.raises(InputError, match="regex"):
        store.search(("a",), filter={"n": {"$regex": "x"}})


@pytest.mark.parametrize("namespace", [("a.b",), ("a\0",), ("",), (1,)])
def test_ops_with_labels_that_cannot_be_are_refused(store, namespace):
    for op in (
        GetOp(namespace, "k"),
        PutOp(namespace, "k", {"v": 1}),
        SearchOp(namespace),
        ListNamespacesOp((MatchCondition("prefix", namespace),)),
    ):
        with pytest.raises(InvalidNamespaceError):
            store.batch([op])


def test_a_value_that_is_not_json_is_refused(store):
    with pytest.raises(InputError, match="'k'"):
        store.put(("a",), "k", {"when": object()})


def test_an_expired_item_is_gone(tmp_path):
    with QuadrieveStore(tmp_path, ttl={"omit_expired": True}) as store:
        store.put(("a",), "short", {"v": 1}, ttl=0.002)
        store.put(("a",), "long", {"v": 2}, ttl=10)
        store.put(("a",), "ever", {"v": 3})
        time.sleep(0.15)
        assert store.get(("a",), "short") is None
        assert sorted(keys(store.search(("a",)))) == ["ever", "long"]
        assert store.sweep_ttl() == 1
        store.put(("b",), "short", {"v": 1}, ttl=0.002)
        time.sleep(0.15)
        assert store.list_namespaces() == [("a",)]


def test_an_expired_item_is_read_until_a_sweep_where_langgraph_says_so():
    with QuadrieveStore(ttl={"default_ttl": 0.002, "refresh_on_read": False}) as store:
        store.put(("a",), "k", {"v": 1})
        time.sleep(0.15)
        assert store.get(("a",), "k") is not None
        assert store.sweep_ttl() == 1
        assert store.get(("a",), "k") is None


@pytest.mark.parametrize("read", ["get", "search"])
@pytest.mark.parametrize("refresh", [True, False])
def test_reading_refreshes_a_time_to_live(read, refresh):
    with QuadrieveStore(ttl={"default_ttl": 0.01, "refresh_on_read": refresh, "omit_expired": True}) as store:
        store.put(("a",), "k", {"v": 1})
        time.sleep(0.4)
        assert store.get(("a",), "k") if read == "get" else store.search(("a",))
        time.sleep(0.4)
        assert (store.get(("a",), "k") is not None) is refresh


def test_an_expired_item_that_is_put_again_is_a_new_one():
    with QuadrieveStore(ttl={"omit_expired": True}) as store:
        store.put(("a",), "k", {"v": 1}, ttl=0.02)
        first = store.get(("a",), "k", refresh_ttl=False)
        while store.get(("a",), "k", refresh_ttl=False) is not None:
            time.sleep(0.05)
        store.put(("a",), "k", {"v": 2})
        assert store.get(("a",), "k").created_at > first.created_at


def test_sweeping_runs_by_itself_where_asked():
    with QuadrieveStore(ttl={"default_ttl": 0.001, "sweep_interval_minutes": 0.002}) as store:
        store.put(("a",), "k", {"v": 1})
        deadline = time.monotonic() + 5
        while store.get(("a",), "k", refresh_ttl=False) is not None:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_time_to_live_is_a_positive_number(store):
    with pytest.raises(InputError, match="minutes"):
        store.put(("a",), "k", {"v": 1}, ttl=-1)


async def test_everything_works_asynchronously(embedder):
    store = QuadrieveStore(embedder=embedder)
    await asyncio.gather(
        store.aput(("ada",), "dog", {"text": "My dog is called Biscuit."}),
        store.aput(("ada",), "town", {"text": "I live in Oslo."}),
    )
    assert (await store.asearch(("ada",), query="What is my pet's name?"))[0].key == "dog"
    await store.adelete(("ada",), "dog")
    assert await store.aget(("ada",), "dog") is None
    assert await store.alist_namespaces() == [("ada",)]


async def test_an_asynchronous_embedding_function_will_do():
    async def embed(texts):
        return FAKE.embed_documents(list(texts))

    store = QuadrieveStore(index={"dims": 16, "embed": embed})
    await store.aput(("a",), "k", {"text": "hello"})
    assert (await store.asearch(("a",), query="hello"))[0].score == pytest.approx(1, abs=1e-5)


def test_threads_may_write_and_read_at_once(store):
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: store.put(("a", str(i % 4)), f"k{i}", {"text": str(i)}), range(64)))
        assert all(pool.map(lambda i: store.get(("a", str(i % 4)), f"k{i}"), range(64)))
    assert len(store.search(("a",), limit=100)) == 64


def test_what_is_not_searched_by_meaning_comes_newest_first(store):
    for key in "abc":
        store.put(("a",), key, {"v": 1})
    store.put(("a",), "a", {"v": 2})
    assert keys(store.search(("a",))) == ["a", "c", "b"]


def test_a_store_has_one_embedder_of_one_dimension(embedder):
    with pytest.raises(InputError, match="one embedder"):
        QuadrieveStore(embedder=embedder, index={"dims": 16, "embed": FAKE})
    with pytest.raises(InputError, match="384"):
        QuadrieveStore(embedder=embedder, index={"dims": 16})
    with pytest.raises(InputError, match="shape"):
        QuadrieveStore(index={"dims": 15, "embed": FAKE}).put(("a",), "k", {"text": "x"})


NAMESPACES = st.lists(st.sampled_from(["a", "ab", "b"]), min_size=1, max_size=3).map(tuple)
KEYS = st.sampled_from("xyz")
VALUES = st.fixed_dictionaries({"n": st.integers(0, 3)})
OPS = st.one_of(
    st.tuples(NAMESPACES, KEYS, st.none() | VALUES).map(lambda given: PutOp(*given)),
    st.tuples(NAMESPACES, KEYS).map(lambda given: GetOp(*given)),
    st.tuples(st.just(()) | NAMESPACES, st.none() | VALUES).map(lambda given: SearchOp(*given, limit=100)),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(OPS, max_size=6), max_size=6))
def test_it_answers_as_the_in_memory_store_does(batches):
    def plain(result):
        if isinstance(result, list):
            return sorted(map(str, map(plain, result)))
        return result if result is None or isinstance(result, tuple) else (result.namespace, result.key, result.value)

    theirs = InMemoryStore()
    with QuadrieveStore() as ours:
        for ops in batches:
            assert list(map(plain, ours.batch(ops))) == list(map(plain, theirs.batch(ops)))
