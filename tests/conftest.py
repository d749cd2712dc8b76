"""Fixtures that every part uses."""

import os

os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest

from quadrieve import Embedder


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    """The packaged MiniLM, loaded once."""
    return Embedder.load("minilm")
