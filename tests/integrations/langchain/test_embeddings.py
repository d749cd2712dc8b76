"""A role's view is an `Embeddings` that any LangChain vector store can use."""

from __future__ import annotations

import asyncio
import pickle
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from langchain_quadrieve import QuadrieveEmbeddings
from quadrieve import InputError

TEXTS = [f"Sentence number {i}." for i in range(12)]


@pytest.fixture
def embeddings(embedder):
    return QuadrieveEmbeddings(embedder, "qa")


def test_vectors_are_lists_of_python_floats_in_the_order_of_the_texts(embeddings, embedder):
    rows = embeddings.embed_documents(TEXTS)
    assert all(type(row) is list and type(row[0]) is float for row in rows)
    np.testing.assert_allclose(rows, embedder.view("qa").embed_keys(TEXTS), atol=1e-6)
    assert type(embeddings.embed_query("x")[0]) is float


def test_no_texts_give_no_vectors_and_any_iterable_will_do(embeddings):
    assert embeddings.embed_documents([]) == []
    assert embeddings.embed_documents(text for text in TEXTS[:2]) == embeddings.embed_documents(TEXTS[:2])
    with pytest.raises(InputError, match="one string"):
        embeddings.embed_documents("text")


async def test_the_asynchronous_methods_leave_the_loop_free(embeddings):
    ticks = 0

    async def tick():
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    rows = await embeddings.aembed_documents(TEXTS)
    ticking.cancel()
    assert ticks > 10
    assert rows == embeddings.embed_documents(TEXTS)
    assert await embeddings.aembed_query("x") == embeddings.embed_query("x")


def test_threads_may_share_it(embeddings):
    expected = [embeddings.embed_query(text) for text in TEXTS]
    with ThreadPoolExecutor(4) as pool:
        np.testing.assert_allclose(list(pool.map(embeddings.embed_query, TEXTS)), expected, atol=1e-6)


def test_it_can_be_pickled(embeddings):
    again = pickle.loads(pickle.dumps(embeddings))
    np.testing.assert_allclose(again.embed_query("x"), embeddings.embed_query("x"), atol=1e-6)


def test_what_is_no_embedder_or_task_is_refused(embedder):
    with pytest.raises(InputError, match="expected Embedder"):
        QuadrieveEmbeddings("minilm")
    with pytest.raises(InputError, match="nonsense"):
        QuadrieveEmbeddings(embedder, "nonsense")
