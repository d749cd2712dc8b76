"""The same stores on a real Chroma server, for many processes; and a folder that a server had meanwhile.

Run as a script, this file is another process that writes.
"""

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chromadb
import pytest
from tests.core.conftest import HashingEmbedder

from quadrieve import (
    Embedder,
    ExampleBank,
    FingerprintError,
    InputError,
    KnowledgeBase,
    Memory,
    ServerError,
    StoreError,
    Tool,
    Toolbox,
)
from quadrieve.index import served
from quadrieve.index.collection import StampedCollection, rename

ROOT = Path(__file__).parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """A Chroma server over a folder; gives its address."""
    port = free_port()
    command = [str(Path(sys.executable).with_name("chroma")), "run", "--path", str(folder), "--port", str(port)]
    with open(os.devnull, "w") as silence:
        server = subprocess.Popen(command, stdout=silence, stderr=silence, cwd=folder.parent)
    try:
        for _ in range(600):
            try:
                urllib.request.urlopen(f"http://localhost:{port}/api/v2/heartbeat", timeout=1).close()
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, "the server ended"
                time.sleep(0.05)
        yield f"http://localhost:{port}"
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(tmp_path_factory.mktemp("server") / "data") as address:
        yield address


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    """An index of this test's own: the server is shared."""
    return "t" + "".join(c if c.isalnum() else "-" for c in request.node.name)[:80] + "x"


class TestRoles:
    def test_knowledge(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            texts = [f"Some passage {i}." for i in range(300)]
            metadatas = [{"n": i, "deep": {"odd": bool(i % 2)}, "tags": [f"t{i % 3}"]} for i in range(300)]
            ids = kb.add(texts, metadatas=metadatas)
            assert kb.add(texts[:5], metadatas=metadatas[:5]) == ids[:5]
            assert kb.count() == 300
            hit = kb.search("Some passage 77.", k=1)[0]
            assert (hit.text, round(hit.score, 3), hit.why) == ("Some passage 77.", 1.0, {"dense": 1})
            assert hit.metadata == {"n": 77, "deep": {"odd": True}, "tags": ["t2"]}
            assert kb.count({"n": {"$gte": 290}, "deep.odd": False}) == 5
            assert {hit.metadata["n"] for hit in kb.search("passage", k=9, where={"n": {"$in": [3, 250]}})} == {3, 250}
            assert kb.count({"tags": {"$contains": "t1"}}) == 100
            assert kb.search("Some passage 77.", k=5, min_score=0.999)[0].metadata["n"] == 77
            assert len(kb.search("Some passage 77.", k=5, diversity=0.5)) == 5
            assert kb.delete(where={"n": {"$lt": 100}}) == 100
            assert kb.delete([ids[200], "nothing"]) == 1
            assert kb.count() == 199
            assert kb.search("Some passage 77.", k=1)[0].text != "Some passage 77."

    def test_an_update_leaves_nothing_of_what_was(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            kb.add(["The tide is high."], ids=["a"], metadatas=[{"old": 1, "both": 1}])
            kb.add(["The tide is low."], ids=["a"], metadatas=[{"new": 2, "both": 2}])
            assert kb.count({"old": 1}) == 0
            assert kb.count({"both": 2, "new": 2}) == 1
            hit = kb.search("The tide is low.", k=1)[0]
            assert (hit.text, hit.metadata) == ("The tide is low.", {"new": 2, "both": 2})

    def test_memory(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        tenants = [
            ("acme",),
            ("acme", "corp"),
            ("acme-corp",),
            ("a\x00b",),
            ("a",),
            ("🙂/..",),
            ('["acme"]',),
            ("x" * 500,),
        ]
        with Memory.open(server, embedder=hashing, user="first", name=name) as first:
            memories = {tenant: Memory(first.index, tenant) for tenant in tenants}
            for i, memory in enumerate(memories.values()):
                memory.remember(f"My canary is bird{i}.")
                memory.remember("Shared words.")
                memory.remember("Shared words.")
            memories["acme",].remember("Gone soon.", ttl=0.01)
            time.sleep(0.02)
            for i, (tenant, memory) in enumerate(memories.items()):
                assert {hit.text for hit in memory.recall("canary", k=9)} == {f"My canary is bird{i}.", "Shared words."}
                below = [name for name in tenants if name[: len(tenant)] == tenant]
                assert {record.namespace for record in first.index.get(within=tenant)} == set(below)
            assert memories["a",].sweep() == 0
            assert memories["acme",].sweep() == 1
            assert memories["acme",].forget(everything=True) == 2
            assert [memory.count() for memory in memories.values()] == [0, *[2] * (len(tenants) - 1)]

    def test_toolbox_and_examples(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        with Toolbox.open(server, embedder=hashing, name=name) as box:
            weather = Tool("get_weather", "Weather of a city.", permissions={"net"})
            assert box.register([weather, Tool("send_mail", "Send a mail.")]) == ["get_weather", "send_mail"]
            hashing.encoded.clear()
            assert box.register([weather, Tool("send_mail", "Send a mail.")]) == []
            assert hashing.encoded == []
            assert box.select("Weather of a city", k=1)[0].name == "get_weather"
            assert [hit.name for hit in box.select("Weather of a city", k=1, allowed=())] == ["send_mail"]
            assert box.unregister(["get_weather"]) == 1
            assert [tool.name for tool in box.get()] == ["send_mail"]
        with ExampleBank.open(server, embedder=hashing, name=name) as bank:
            bank.add("2 + 2", "4")
            bank.add("the capital of Norway", "Oslo")
            assert bank.select("the capital of Norway", k=1)[0].output == "Oslo"

    @pytest.mark.models
    def test_with_the_packaged_model(self, server: str, name: str, embedder: Embedder) -> None:
        with KnowledgeBase.open(server, embedder=embedder, name=name) as kb:
            kb.add(["Bees make honey from nectar.", "The bus leaves at nine."])
            assert kb.search("Where does honey come from?", k=1)[0].text == "Bees make honey from nectar."

    def test_an_export_moves_from_server_to_folder(
        self, server: str, name: str, hashing: HashingEmbedder, tmp_path: Path
    ) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            kb.add(["The tide is high.", "Bread is fresh."], ids=["a", "b"], metadatas=[{"n": 1}, None])
            assert kb.export(tmp_path / "kb.jsonl", vectors=True) == 2
        new = HashingEmbedder()
        with KnowledgeBase.load(tmp_path / "kb.jsonl", tmp_path / "store", embedder=new) as kb:
            assert new.encoded == []
            assert [hit.id for hit in kb.search("tide", mode="lexical")] == ["a"]
            assert kb.search("The tide is high.", k=1, where={"n": 1})[0].score > 0.999


class TestRefusals:
    def test_of_lexical_search(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            kb.add(["The tide is high."])
            with pytest.raises(InputError, match="needs an embedded store"):
                kb.search("tide", mode="lexical")

    def test_of_another_embedder(
        self, server: str, name: str, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        KnowledgeBase.open(server, embedder=hashing, name=name).close()
        with pytest.raises(FingerprintError):
            KnowledgeBase.open(server, embedder=other_hashing, name=name)

    def test_of_a_collection_that_is_not_ours(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        client = chromadb.HttpClient("localhost", int(server.rsplit(":", 1)[1]))
        client.create_collection(f"knowledge.{name}", embedding_function=None)
        with pytest.raises(StoreError, match="not written by quadrieve"):
            KnowledgeBase.open(server, embedder=hashing, name=name)

    def test_of_a_server_that_is_not_there_in_one_sentence(self, hashing: HashingEmbedder) -> None:
        with pytest.raises(ServerError) as refused:
            KnowledgeBase.open(f"http://localhost:{free_port()}", embedder=hashing)
        message = str(refused.value)
        assert "chroma run" in message
        assert "\n" not in message
        assert message.endswith(".")
        assert message.count(". ") == 0

    def test_of_a_server_that_went_away(self, tmp_path: Path, hashing: HashingEmbedder) -> None:
        with serving(tmp_path / "data") as address:
            kb = KnowledgeBase.open(address, embedder=hashing)
            kb.add(["The tide is high."])
        for action in (lambda: kb.search("tide"), kb.count, lambda: kb.add(["new"]), lambda: kb.delete(["a"])):
            with pytest.raises(ServerError, match="did not answer"):
                action()

    @pytest.mark.parametrize("address", ["http://", "ftp://localhost:1", "http://localhost:8000/path", "https://"])
    def test_of_what_is_no_address(self, address: str, hashing: HashingEmbedder) -> None:
        with pytest.raises(InputError, match="http://host:8000"):
            KnowledgeBase.open(address, embedder=hashing)


class TestRebuild:
    def test_moves_to_another_embedder(
        self, server: str, name: str, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            kb.add([f"Some passage {i}." for i in range(1200)], metadatas=[{"n": i} for i in range(1200)])
            kb.delete(where={"n": {"$lt": 100}})
            kb.rebuild(other_hashing)
            assert len(other_hashing.encoded) == 1100
            assert kb.count() == 1100
            assert kb.search("Some passage 777.", k=1)[0].score > 0.999
            kb.add(["New."])
            assert kb.count() == 1101
        with pytest.raises(FingerprintError):
            KnowledgeBase.open(server, embedder=hashing, name=name)
        with KnowledgeBase.open(server, embedder=other_hashing, name=name) as kb:
            assert kb.search("Some passage 777.", k=1)[0].metadata == {"n": 777}

    def test_with_the_same_embedder_keeps_everything(self, server: str, name: str, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
            kb.add([f"Some passage {i}." for i in range(50)])
            before = {record.id: record for record in kb.index.scan()}
            hashing.encoded.clear()
            for _ in range(2):
                kb.rebuild()
            assert hashing.encoded == []
            assert {record.id: record for record in kb.index.scan()} == before

    @pytest.mark.parametrize("dies_at", ["rename", "second rename", "drop"])
    def test_that_dies_while_it_switches_loses_nothing(
        self, server: str, name: str, dies_at: str, hashing: HashingEmbedder, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        kb = KnowledgeBase.open(server, embedder=hashing, name=name)
        kb.add([f"Some passage {i}." for i in range(50)], ids=[f"d{i}" for i in range(50)])
        renamed: list[str] = []

        def dying(collection: chromadb.Collection, to: str) -> None:
            if dies_at == "rename" or (dies_at == "second rename" and renamed):
                raise KeyboardInterrupt
            renamed.append(to)
            rename(collection, to)

        def die(collection: StampedCollection) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(served, "rename", dying)
            patch.setattr(StampedCollection, "drop", die)
            with pytest.raises(KeyboardInterrupt):
                kb.rebuild()
        with KnowledgeBase.open(server, embedder=hashing, name=name) as again:
            assert again.count() == 50
            assert again.search("Some passage 7.", k=1)[0].id == "d7"
            again.add(["New."], ids=["new"])
            again.rebuild()
            assert again.count() == 51
        client = chromadb.HttpClient("localhost", int(server.rsplit(":", 1)[1]))
        assert [c.name for c in client.list_collections() if name in c.name] == [f"knowledge.{name}"]


def test_two_processes_at_once(server: str, name: str, hashing: HashingEmbedder) -> None:
    with KnowledgeBase.open(server, embedder=hashing, name=name) as kb:
        command = [sys.executable, "-m", "tests.core.test_server", server, name]
        others = [subprocess.Popen([*command, who], cwd=ROOT) for who in ("ada", "bob")]
        for i in range(30):
            kb.add([f"mine {i}"], ids=[f"mine{i}"])
            assert kb.search(f"mine {i}", k=1, where={"who": {"$ne": "ada"}})
        assert [other.wait(120) for other in others] == [0, 0]
        assert kb.count() == 90
        assert {who: kb.count({"who": who}) for who in ("ada", "bob")} == {"ada": 30, "bob": 30}
        assert kb.search("ada 17", k=1)[0].id == "ada17"


class TestAFolder:
    def test_served_after_it_was_closed_and_opened_again(self, tmp_path: Path, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(tmp_path / "store", embedder=hashing) as kb:
            kb.add([f"Some passage {i}." for i in range(1100)], ids=[f"d{i}" for i in range(1100)])
        generation = tmp_path / "store" / "knowledge.default" / "gen-000001"
        with serving(generation) as address, KnowledgeBase.open(address, embedder=hashing) as kb:
            assert kb.count() == 1100
            assert kb.search("Some passage 1007.", k=1)[0].id == "d1007"
            kb.add(["From the server zx81."], ids=["new"], metadatas=[{"from": "server"}])
            kb.add(["Changed zx82."], ids=["d5"])
            assert kb.delete(["d6", "d7"]) == 2
        with KnowledgeBase.open(tmp_path / "store", embedder=hashing) as kb:
            assert kb.count() == 1099
            assert [hit.id for hit in kb.search("zx81", mode="lexical")] == ["new"]
            assert [hit.id for hit in kb.search("zx82", mode="lexical", where={"from": {"$ne": "server"}})] == ["d5"]
            assert kb.search("Changed zx82.", k=1, mode="dense")[0].score > 0.999
            assert kb.search("passage 6", k=5, mode="lexical")[0].id != "d6"
            assert kb.index.get(["d6", "d7"]) == []
            assert kb.count({"from": "server"}) == 1
            kb.rebuild()
            assert kb.count() == 1099

    def test_updated_many_times_by_the_server(self, tmp_path: Path, hashing: HashingEmbedder) -> None:
        for i in range(3):
            with KnowledgeBase.open(tmp_path / "store", embedder=hashing) as kb:
                assert kb.count() == (1 if i else 0)
                kb.add([f"embedded {i}"], ids=["a"])
            generation = tmp_path / "store" / "knowledge.default" / "gen-000001"
            with serving(generation) as address, KnowledgeBase.open(address, embedder=hashing) as kb:
                assert kb.search("embedded", k=1)[0].text == f"embedded {i}"
                kb.add([f"served {i}"], ids=["a"])
            with KnowledgeBase.open(tmp_path / "store", embedder=hashing) as kb:
                assert kb.search("served", k=1)[0].text == f"served {i}"
                assert [hit.id for hit in kb.search(f"{i}", mode="lexical")] == ["a"]


def main(address: str, name: str, who: str) -> None:
    with KnowledgeBase.open(address, embedder=HashingEmbedder(), name=name) as kb:
        for i in range(30):
            kb.add([f"{who} {i}"], ids=[f"{who}{i}"], metadatas=[{"who": who}])


if __name__ == "__main__":
    main(*sys.argv[1:])
