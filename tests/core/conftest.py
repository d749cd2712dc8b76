"""A small embedder that is real and quick: words hashed into 64 dimensions."""

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pytest

from quadrieve import Role

DIM = 64


class HashingView:
    """Texts that share words are near each other; two salts give two spaces that have nothing in common."""

    dim = DIM

    def __init__(self, embedder: "HashingEmbedder") -> None:
        self._embedder = embedder
        self.fingerprint = f"{embedder.salt}-hashed-words"

    def embed_queries(self, texts: Sequence[str]) -> np.ndarray:
        return np.stack([_unit(text, self._embedder.salt) for text in texts])

    def embed_keys(self, texts: Sequence[str]) -> np.ndarray:
        self._embedder.encoded.extend(texts)
        return np.stack([_unit(text, self._embedder.salt) for text in texts])

    def explain(self, text: str, side: str = "query") -> str:
        return text


class HashingEmbedder:
    """Meets `EmbedderLike`; `encoded` says which texts were encoded to be stored."""

    def __init__(self, salt: str = "a") -> None:
        self.salt = salt
        self.encoded: list[str] = []

    def view(self, task: Role | str) -> HashingView:
        return HashingView(self)


@lru_cache(maxsize=100_000)
def _word(word: str, salt: str) -> np.ndarray:
    seed = int.from_bytes(hashlib.blake2b(f"{salt} {word}".encode(), digest_size=8).digest())
    return np.random.default_rng(seed).standard_normal(DIM)


def _unit(text: str, salt: str) -> np.ndarray:
    total = _word(" ", salt) * 0.1
    for word in re.findall(r"\w+", text.lower()):
        total = total + _word(word, salt)
    return (total / np.linalg.norm(total)).astype(np.float32)


@pytest.fixture
def hashing() -> HashingEmbedder:
    """An embedder of hashed words."""
    return HashingEmbedder()


@pytest.fixture
def other_hashing() -> HashingEmbedder:
    """Another model, with another fingerprint."""
    return HashingEmbedder("b")
