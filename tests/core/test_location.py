"""Where an index lies, who owns it, and what is refused."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from quadrieve import (
    Embedder,
    FingerprintError,
    InputError,
    KnowledgeBase,
    Memory,
    Role,
    ServerError,
    StoreError,
    Toolbox,
)

_OPEN = """
import sys
from quadrieve import Embedder, KnowledgeBase
kb = KnowledgeBase.open(sys.argv[1], embedder=Embedder.load("minilm"))
kb.add(["left by a process that died"])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_folder_is_found_again_as_it_was_left(embedder: Embedder, tmp_path: Path) -> None:
    with KnowledgeBase.open(tmp_path / "store", embedder=embedder, name="docs") as kb:
        kb.add(["The ferry leaves at nine."], metadatas=[{"source": {"page": 3}, "tags": ["ferry"], "none": None}])
    with KnowledgeBase.open(str(tmp_path / "store"), embedder=embedder, name="docs") as kb:
        (hit,) = kb.search("When does the boat go?")
        assert hit.text == "The ferry leaves at nine."
        assert hit.metadata == {"source": {"page": 3}, "tags": ["ferry"], "none": None}
        assert kb.count({"source.page": 3}) == kb.count({"tags": {"$contains": "ferry"}}) == 1


def test_roles_and_names_are_apart_in_one_location(embedder: Embedder, tmp_path: Path) -> None:
    with (
        KnowledgeBase.open(tmp_path, embedder=embedder) as one,
        KnowledgeBase.open(tmp_path, embedder=embedder, name="other") as two,
        Memory.open(tmp_path, embedder=embedder, user="ada") as memory,
    ):
        one.add(["only in one"])
        assert (one.count(), two.count(), memory.count()) == (1, 0, 0)


def test_one_process_opens_a_store_as_often_as_it_likes(embedder: Embedder, tmp_path: Path) -> None:
    first = KnowledgeBase.open(tmp_path, embedder=embedder)
    second = KnowledgeBase.open(tmp_path, embedder=embedder)
    first.add(["written through the first"])
    first.close()
    first.close()
    assert second.search("written", k=1)[0].text == "written through the first"
    with pytest.raises(StoreError, match="closed"):
        first.search("written")
    second.close()


def test_memory_locations_are_apart(embedder: Embedder) -> None:
    one, two = (KnowledgeBase.open(None, embedder=embedder) for _ in range(2))
    one.add(["only in one"])
    assert two.count() == 0
    assert two.search("only") == []


def test_a_second_process_is_told_who_owns_the_store_and_a_dead_owner_s_lock_is_taken_over(
    embedder: Embedder, tmp_path: Path
) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", _OPEN, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert owner.stdout is not None
    assert owner.stdout.readline() == "open\n"
    with pytest.raises(
        StoreError, match=rf"in use by process {owner.pid} .*`chroma run --path .*http://localhost:8000"
    ):
        KnowledgeBase.open(tmp_path, embedder=embedder)
    owner.kill()
    owner.wait()
    with KnowledgeBase.open(tmp_path, embedder=embedder) as kb:
        assert [hit.text for hit in kb.search("died", mode="lexical")] == ["left by a process that died"]


def test_another_embedder_is_refused_with_both_named_and_the_way_out(embedder: Embedder, tmp_path: Path) -> None:
    KnowledgeBase.open(tmp_path, embedder=embedder).close()
    shorter = Embedder.load("minilm", max_length=64)
    with pytest.raises(
        FingerprintError, match=r"minilm \(.*256 tokens\).*minilm \(.*64 tokens\).*rebuild\(embedder=…\)"
    ):
        KnowledgeBase.open(tmp_path, embedder=shorter)
    with KnowledgeBase.open(tmp_path, embedder=embedder) as kb:
        assert kb.count() == 0


def test_what_is_no_store_is_refused_and_left_alone(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(StoreError, match=r"not a quadrieve store: it holds other files and no quadrieve\.json"):
        KnowledgeBase.open(tmp_path, embedder=embedder)
    with pytest.raises(StoreError, match="is a file; a store is a folder"):
        KnowledgeBase.open(tmp_path / "notes.txt", embedder=embedder)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt"]


def test_what_was_killed_before_it_was_a_store_becomes_one(
    embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            KnowledgeBase.open(tmp_path, embedder=embedder)
    assert not (tmp_path / "quadrieve.json").exists()
    assert len(list(tmp_path.iterdir())) == 1
    with KnowledgeBase.open(tmp_path, embedder=embedder) as kb:
        assert kb.count() == 0


def test_a_newer_store_is_refused(embedder: Embedder, tmp_path: Path) -> None:
    (tmp_path / "quadrieve.json").write_text(json.dumps({"format": 99}))
    with pytest.raises(StoreError, match="store format 99, this version reads 1"):
        KnowledgeBase.open(tmp_path, embedder=embedder)


def test_an_unreachable_server_is_named_with_the_command_that_starts_one(embedder: Embedder) -> None:
    with pytest.raises(ServerError, match=r"No Chroma server answers at http://127\.0\.0\.1:9 .*chroma run --path"):
        KnowledgeBase.open("http://127.0.0.1:9", embedder=embedder)


@pytest.mark.parametrize("location", ["ftp://host", "http://", "http://host/path"])
def test_what_is_no_server_address_is_refused(embedder: Embedder, location: str) -> None:
    with pytest.raises(InputError, match="looks like 'http://host:8000'"):
        KnowledgeBase.open(location, embedder=embedder)


def test_other_wrong_arguments_are_refused(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="A location is a folder"):
        KnowledgeBase.open(3, embedder=embedder)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="1 to 100 letters"):
        KnowledgeBase.open(tmp_path, embedder=embedder, name="../up")
    with pytest.raises(InputError, match=r"expected Embedder\.load"):
        KnowledgeBase.open(tmp_path, embedder="minilm")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'tool' is of 'tool'"):
        KnowledgeBase.open(tmp_path, embedder=embedder, task="tool")
    with pytest.raises(InputError, match="Unknown role or task"):
        Toolbox.open(tmp_path, embedder=embedder, task="wisdom")


def test_a_chromadb_client_of_the_caller_s_is_a_location(embedder: Embedder, tmp_path: Path) -> None:
    import chromadb

    client = chromadb.PersistentClient(tmp_path / "theirs")
    kb = KnowledgeBase.open(client, embedder=embedder)
    kb.add(["Bees make honey.", "The bus leaves at nine."])
    assert kb.search("Where does honey come from?", k=1)[0].text == "Bees make honey."
    collection = client.get_collection(f"{Role.KNOWLEDGE.value}.default", embedding_function=None)
    assert collection.configuration["hnsw"]["space"] == "cosine"


def test_a_collection_of_somebody_else_is_refused(embedder: Embedder, tmp_path: Path) -> None:
    import chromadb

    client = chromadb.PersistentClient(tmp_path / "theirs")
    client.create_collection("knowledge.default", embedding_function=None)
    with pytest.raises(StoreError, match="was not written by quadrieve"):
        KnowledgeBase.open(client, embedder=embedder)
