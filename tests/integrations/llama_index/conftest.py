"""What the LlamaIndex tests stand on: the packaged weights, as they are and with a prefix for each role and side."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from tests.core.conftest import HashingEmbedder

from quadrieve import Embedder, KnowledgeBase, tasks

PASSAGES = {
    "bees": "Bees make honey from the nectar of flowers.",
    "oslo": "Oslo is the capital of Norway and lies at a fjord.",
    "rust": "Rust checks at compile time that references stay valid.",
    "soup": "A good onion soup needs butter, patience and a bay leaf.",
    "moon": "The moon causes the tides of the sea.",
}


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Encode single sentences on one core: two that wait for each other are far slower beside a busy neighbour."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def hashing() -> HashingEmbedder:
    """Where meaning does not matter: texts that share words are near each other."""
    return HashingEmbedder()


@pytest.fixture(scope="session")
def prefixed_folder(embedder: Embedder, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that tells roles and sides apart, which the packaged one does not."""
    folder = tmp_path_factory.mktemp("prefixed") / "model"
    embedder.save(folder)
    config = folder / "config_sentence_transformers.json"
    stated = json.loads(config.read_text())
    stated["prompts"] = {f"{t.name}_query": t.query_prefix for t in tasks()} | {
        f"{t.name}_key": t.key_prefix for t in tasks()
    }
    config.write_text(json.dumps(stated))
    return folder


@pytest.fixture(scope="session")
def prefixed(prefixed_folder: Path) -> Embedder:
    return Embedder.load(prefixed_folder)


@pytest.fixture
def kb(embedder: Embedder) -> KnowledgeBase:
    base = KnowledgeBase.open(None, embedder=embedder)
    base.add(list(PASSAGES.values()), ids=list(PASSAGES), metadatas=[{"letters": len(id)} for id in PASSAGES])
    return base
