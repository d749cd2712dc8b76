"""QuadrieveEmbedding: a role's two sides, fields that say all, caches that mix nothing."""

import pickle
from pathlib import Path

import numpy as np
import pytest
from llama_index.core.storage.kvstore import SimpleKVStore

from llama_index_quadrieve import QuadrieveEmbedding
from quadrieve import Embedder, FingerprintError, InputError, tasks

ROLES = [task.name for task in tasks()]


@pytest.mark.parametrize("role", ROLES)
def test_queries_and_texts_are_embedded_on_the_roles_own_sides(prefixed: Embedder, role: str) -> None:
    embedding = QuadrieveEmbedding(embedder=prefixed, role=role)
    view = prefixed.view(role)
    assert np.allclose(embedding.get_query_embedding("bees"), view.embed_queries(["bees"])[0], atol=1e-6)
    assert np.allclose(embedding.get_text_embedding("bees"), view.embed_keys(["bees"])[0], atol=1e-6)


async def test_async_and_batched_give_what_one_at_a_time_gives(prefixed: Embedder) -> None:
    embedding = QuadrieveEmbedding(embedder=prefixed, role="memory", embed_batch_size=2)
    texts = ["one", "two words", "and now three", "a fourth text of some more words"]
    one_by_one = [embedding.get_text_embedding(text) for text in texts]
    for batched in (embedding.get_text_embedding_batch(texts), await embedding.aget_text_embedding_batch(texts)):
        assert np.allclose(batched, one_by_one, atol=2e-2)
    assert await embedding.aget_query_embedding("bees") == embedding.get_query_embedding("bees")
    assert await embedding.aget_text_embedding("bees") == embedding.get_text_embedding("bees")


def test_vectors_are_lists_of_plain_floats(embedder: Embedder) -> None:
    vector = QuadrieveEmbedding(embedder=embedder).get_query_embedding("bees")
    assert isinstance(vector, list)
    assert {type(part) for part in vector} == {float}


def test_all_roles_of_a_checkpoint_use_one_encoder() -> None:
    embeddings = [QuadrieveEmbedding(model="minilm", role=role) for role in ROLES]
    assert len({id(embedding.embedder) for embedding in embeddings}) == 1


def test_a_dict_brings_it_back(prefixed: Embedder) -> None:
    embedding = QuadrieveEmbedding(embedder=prefixed, role="tool", on_long="split", embed_batch_size=7)
    again = QuadrieveEmbedding.from_dict(embedding.to_dict())
    assert again.to_dict() == embedding.to_dict()
    assert again.embedder is embedding.embedder
    assert QuadrieveEmbedding.from_json(embedding.to_json()).to_dict() == embedding.to_dict()


def test_a_dict_of_other_weights_or_prefixes_is_refused(prefixed: Embedder) -> None:
    stated = QuadrieveEmbedding(embedder=prefixed, role="tool").to_dict()
    with pytest.raises(FingerprintError, match="made with fingerprint"):
        QuadrieveEmbedding.from_dict({**stated, "role": "qa"})


def test_the_ingestion_caches_key_differs_between_roles(prefixed: Embedder) -> None:
    stated = [str(QuadrieveEmbedding(embedder=prefixed, role=role).to_dict()) for role in ROLES]
    assert len(set(stated)) == len(ROLES)


def test_it_can_be_pickled_with_its_cache(prefixed: Embedder) -> None:
    embedding = QuadrieveEmbedding(embedder=prefixed, role="tool", embeddings_cache=SimpleKVStore())
    vector = embedding.get_query_embedding("bees")
    again = pickle.loads(pickle.dumps(embedding))
    assert again.to_dict() == embedding.to_dict()
    assert again.embedder is embedding.embedder
    assert again.get_query_embedding("bees") == vector


@pytest.mark.parametrize("late", [False, True], ids=["given at once", "set later"])
async def test_one_cache_for_all_never_mixes_roles_or_sides(prefixed: Embedder, late: bool) -> None:
    store = SimpleKVStore()
    for _ in range(2):  # the second time from the cache
        for role in ROLES:
            embedding = QuadrieveEmbedding(embedder=prefixed, role=role, embeddings_cache=None if late else store)
            if late:
                embedding.embeddings_cache = store
            view = prefixed.view(role)
            query, key = view.embed_queries(["bees"])[0], view.embed_keys(["bees"])[0]
            assert np.allclose(embedding.get_query_embedding("bees"), query, atol=1e-6)
            assert np.allclose(embedding.get_text_embedding("bees"), key, atol=1e-6)
            assert np.allclose(await embedding.aget_query_embedding("bees"), query, atol=1e-6)
            assert np.allclose(await embedding.aget_text_embedding_batch(["bees"]), [key], atol=1e-6)
    assert sorted(map(len, store.to_dict().values())) == [1] * (2 * len(ROLES))


def test_what_is_cached_is_not_encoded_again(embedder: Embedder) -> None:
    embedding = QuadrieveEmbedding(embedder=embedder, embeddings_cache=SimpleKVStore())
    embedding.embeddings_cache.put("bees", {"id": [1.0, 2.0]}, collection="embeddings")
    assert embedding.get_text_embedding("bees") == [1.0, 2.0]
    assert embedding.get_text_embedding_batch(["bees"]) == [[1.0, 2.0]]
    assert len(embedding.get_query_embedding("bees")) == embedder.dim


def test_long_texts_are_never_cut_in_silence(embedder: Embedder) -> None:
    long = "honey " * 2000
    with pytest.warns(UserWarning, match="were cut"):
        QuadrieveEmbedding(embedder=embedder).get_text_embedding(long)
    with pytest.raises(InputError, match="tokens"):
        QuadrieveEmbedding(embedder=embedder, on_long="error").get_text_embedding(long)


def test_wrong_arguments_are_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Unknown role or task 'tools'"):
        QuadrieveEmbedding(role="tools")
    with pytest.raises(InputError, match="embedder is str"):
        QuadrieveEmbedding(embedder="minilm")
