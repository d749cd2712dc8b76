"""The core's quick embedder, and the demos' servers and browser."""

import pytest
from tests.core.conftest import HashingEmbedder


@pytest.fixture
def hashing() -> HashingEmbedder:
    """An embedder of hashed words."""
    return HashingEmbedder()
