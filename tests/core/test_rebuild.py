"""Rebuild: what was deleted leaves the disk, and another embedder moves in, while others search and write."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.core.conftest import DIM, HashingEmbedder

from quadrieve import Embedder, FingerprintError, KnowledgeBase, Memory, StoreError, Tool, Toolbox

SECRET = "Zwölf Möwen 暗号 keep the password hunter2-🙂 in the lighthouse"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


def holders(folder: Path, *needles: bytes) -> list[str]:
    """Which files hold one of the needles, in their bytes or in their names."""
    return [
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and any(needle in path.read_bytes() or needle in path.name.encode() for needle in needles)
    ]


def traces(text: str, vector: np.ndarray) -> list[bytes]:
    """The text as UTF-8 and as JSON escapes it, its long words, and every window of 64 bytes of its vector."""
    little = np.asarray(vector, dtype="<f4").tobytes()
    words = [word.encode() for word in text.split() if len(word) > 6]
    escaped = text.encode("unicode_escape")
    return [text.encode(), escaped, *words, *(little[start : start + 64] for start in range(0, len(little) - 63, 4))]


class TestErasure:
    def test_no_byte_of_a_deleted_record_is_left(self, folder: Path, hashing: HashingEmbedder) -> None:
        vector = hashing.view("qa").embed_keys([SECRET])[0]
        needles = traces(SECRET, vector)
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add(
                [SECRET, "The tide is high."], ids=["secret-id-4711", "tide"], metadatas=[{"note": "verysecret"}, {}]
            )
            kb.add([f"Some passage {i}." for i in range(300)])
            assert kb.search(SECRET, k=1)[0].text == SECRET
            assert kb.delete(["secret-id-4711"]) == 1
            assert kb.search(SECRET, k=1)[0].text != SECRET
            kb.rebuild()
            assert holders(folder, *needles, b"secret-id-4711", b"verysecret") == []
            assert kb.count() == 301
        assert holders(folder, *needles, b"secret-id-4711", b"verysecret") == []

    def test_the_traces_are_seen_where_they_are(self, folder: Path, hashing: HashingEmbedder) -> None:
        needles = traces(SECRET, hashing.view("qa").embed_keys([SECRET])[0])
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([SECRET], ids=["a"])
            kb.delete(["a"])
        assert holders(folder, *needles)

    def test_after_thousands_of_records_and_an_update(self, folder: Path, hashing: HashingEmbedder) -> None:
        needles = traces(SECRET, hashing.view("qa").embed_keys([SECRET])[0])
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([f"Some passage {i}." for i in range(2500)])
            kb.add([SECRET], ids=["a"])
            kb.add([f"Another passage {i}." for i in range(1500)])
            kb.add(["Nothing to see."], ids=["a"])
            kb.rebuild()
            assert holders(folder, *needles) == []
            assert kb.search("Nothing to see.", k=1)[0].id == "a"

    def test_nothing_that_memory_held_before_reaches_the_disk(self, tmp_path: Path, hashing: HashingEmbedder) -> None:
        """Chroma writes memory to its files that it never cleared, and what other stores deleted is still in there."""
        needles = traces(SECRET, hashing.view("qa").embed_keys([SECRET])[0])
        for i in range(8):
            with KnowledgeBase.open(tmp_path / str(i), embedder=hashing) as kb:
                kb.add([SECRET, "Bees make honey."], ids=["a", "b"])
                assert kb.search(SECRET, k=1)[0].id == "a"
                kb.delete(["a"], erase=True)
                assert holders(tmp_path / str(i), *needles) == []
        assert holders(tmp_path, *needles) == []

    @pytest.mark.models
    def test_with_the_packaged_model(self, folder: Path, embedder: Embedder) -> None:
        with KnowledgeBase.open(folder, embedder=embedder) as kb:
            kb.add([SECRET, "Bees make honey."], ids=["a", "b"])
            vector = kb.index.get(["a"], vectors=True)[0].vector
            assert vector is not None
            kb.delete(["a"], erase=True)
            assert holders(folder, *traces(SECRET, vector)) == []
            assert kb.search("Where does honey come from?", k=1)[0].id == "b"

    @pytest.mark.parametrize("role", ["knowledge", "memory"])
    def test_deleting_can_erase_at_once(self, folder: Path, hashing: HashingEmbedder, role: str) -> None:
        needles = traces(SECRET, hashing.view("qa").embed_keys([SECRET])[0])
        if role == "knowledge":
            with KnowledgeBase.open(folder, embedder=hashing) as kb:
                kb.add([SECRET, "bread"], metadatas=[{"kind": "secret"}, None])
                assert kb.delete(where={"kind": "secret"}, erase=True) == 1
                assert kb.count() == 1
                assert holders(folder, *needles) == []
        else:
            with Memory.open(folder, embedder=hashing, user="ada") as ada:
                bob = Memory(ada.index, "bob")
                ada.remember(SECRET)
                bob.remember("bread")
                assert ada.forget(everything=True, erase=True) == 1
                assert [hit.text for hit in bob.recall("bread")] == ["bread"]
                assert holders(folder, *needles) == []

    def test_a_migration_that_was_given_up_keeps_nothing(
        self, folder: Path, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        needles = traces(SECRET, other_hashing.view("qa").embed_keys([SECRET])[0])
        needles += traces(SECRET, hashing.view("qa").embed_keys([SECRET])[0])
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([SECRET], ids=["a"])
            kb.add([f"Some passage {i}." for i in range(1500)])
            with pytest.raises(ConnectionError):
                kb.rebuild(Failing("b", after=1))
            kb.delete(["a"])
            kb.rebuild()
            assert holders(folder, *needles) == []
            assert kb.count() == 1500

    def test_a_resumed_migration_forgets_what_was_deleted_meanwhile(
        self, folder: Path, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        needles = traces(SECRET, other_hashing.view("qa").embed_keys([SECRET])[0])
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([SECRET], ids=["a"])
            kb.add([f"Some passage {i}." for i in range(1500)])
            with pytest.raises(ConnectionError):
                kb.rebuild(Failing("b", after=1))
            kb.delete(["a"])
            kb.rebuild(other_hashing)
            assert holders(folder, *needles) == []
            assert kb.count() == 1500


class TestMigration:
    def test_changes_the_embedder_for_good(
        self, folder: Path, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add(["The tide is high.", "Bread is fresh."], ids=["tide", "bread"], metadatas=[{"n": {"m": 1}}, None])
            kb.rebuild(other_hashing)
            assert sorted(set(other_hashing.encoded)) == ["Bread is fresh.", "The tide is high."]
            assert kb.index.view.fingerprint == "b-hashed-words"
            assert kb.search("The tide is high.", k=1, mode="dense")[0].score > 0.999
            assert kb.search("tide", where={"n.m": 1}, mode="lexical")[0].metadata == {"n": {"m": 1}}
            record = kb.index.get(["bread"], vectors=True)[0]
            np.testing.assert_allclose(
                record.vector, other_hashing.view("qa").embed_keys(["Bread is fresh."])[0], atol=1e-6
            )
        with pytest.raises(FingerprintError, match="rebuild"):
            KnowledgeBase.open(folder, embedder=hashing)
        with KnowledgeBase.open(folder, embedder=other_hashing) as kb:
            assert kb.count() == 2

    def test_in_memory(self, hashing: HashingEmbedder, other_hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(None, embedder=hashing) as kb:
            kb.add(["The tide is high."])
            kb.rebuild(other_hashing)
            kb.add(["The tide is low."])
            assert kb.search("The tide is high.", k=2, mode="dense")[0].score > 0.999

    def test_refuses_the_old_view_at_every_other_door(
        self, folder: Path, hashing: HashingEmbedder, other_hashing: HashingEmbedder
    ) -> None:
        with (
            KnowledgeBase.open(folder, embedder=hashing) as kb,
            KnowledgeBase.open(folder, embedder=hashing) as second,
        ):
            kb.add(["The tide is high."], ids=["a"])
            assert second.count() == 1
            kb.rebuild(other_hashing)
            for action in _every_action(second):
                with pytest.raises(FingerprintError):
                    action()
            with KnowledgeBase.open(folder, embedder=other_hashing) as third:
                assert third.search("The tide is high.", k=1)[0].id == "a"

    def test_a_failing_embedder_changes_nothing(self, folder: Path, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([f"Some passage {i}." for i in range(1500)])
            with pytest.raises(ConnectionError):
                kb.rebuild(Failing("b", after=1))
            assert kb.index.view.fingerprint == "a-hashed-words"
            kb.add(["New."], ids=["new"])
            assert kb.search("Some passage 7.", k=1, mode="dense")[0].score > 0.999
            assert kb.count() == 1501

    def test_of_tools_mixes_usage_in_again(self, folder: Path, hashing: HashingEmbedder) -> None:
        new = HashingEmbedder("b")
        with Toolbox.open(folder, embedder=hashing) as box:
            box.register([Tool("get_weather", "Weather now.", usage=["Do I need an umbrella?"]), Tool("mail", "Send.")])
            box.rebuild(new)
            hit = box.select("Do I need an umbrella?", k=1, mode="dense")[0]
            assert hit.name == "get_weather"
            assert hit.score > 0.5

    @pytest.mark.models
    def test_from_words_to_the_packaged_model(self, folder: Path, hashing: HashingEmbedder, embedder: Embedder) -> None:
        with Memory.open(folder, embedder=hashing, user="ada") as memory:
            memory.remember("My dog is called Biscuit.")
            memory.remember("I work at the harbour.")
            memory.rebuild(embedder)
            assert memory.recall("What is my pet's name?", k=1, mode="dense")[0].text == "My dog is called Biscuit."


class TestWhileOthersWork:
    @pytest.mark.parametrize("migrate", [False, True])
    def test_searches_are_answered_and_writes_arrive(self, folder: Path, migrate: bool) -> None:
        old, new = HashingEmbedder("a"), HashingEmbedder("b")
        with KnowledgeBase.open(folder, embedder=old) as kb:
            kb.add([f"Some passage code{i}" for i in range(2000)], ids=[f"d{i}" for i in range(2000)])
            written: list[int] = []

            def search() -> None:
                i = len(searched) % 2000
                hit = kb.search(f"Some passage code{i}", k=1, mode="lexical")[0]
                assert hit.id == f"d{i}"
                assert kb.count() >= 2000
                assert kb.index.get([f"d{i}"], vectors=True)[0].vector is not None
                searched.append(i)

            def write() -> None:
                i = 2000 + len(written)
                kb.add([f"New passage code{i}"], ids=[f"d{i}"])
                written.append(i)

            searched: list[int] = []
            with _meanwhile(search), _meanwhile(write):
                for _ in range(1 if migrate else 3):
                    kb.rebuild(new if migrate else None)
            assert len(searched) > 2
            assert len(written) > 1
            assert kb.count() == 2000 + len(written)
            for i in written:
                hit = kb.search(f"New passage code{i}", k=1, mode="dense")[0]
                assert (hit.id, round(hit.score, 3)) == (f"d{i}", 1.0)

    def test_deletions_meanwhile_are_deleted_and_erased(self, folder: Path, hashing: HashingEmbedder) -> None:
        texts = {f"d{i}": f"Passage mark{i:05d}" for i in range(3000)}
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add(texts.values(), ids=list(texts))
            deleted: list[str] = []

            def delete() -> None:
                id = f"d{len(deleted)}"
                kb.delete([id])
                deleted.append(id)

            with _meanwhile(delete):
                for _ in range(3):
                    kb.rebuild()
            assert len(deleted) > 3
            assert {record.id for record in kb.index.scan()} == texts.keys() - set(deleted)
            kb.rebuild()
            assert holders(folder, *(texts[id].encode() for id in deleted)) == []

    def test_updates_meanwhile_leave_nothing_of_what_was(self, folder: Path, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            kb.add([f"Passage mark{i:05d}" for i in range(3000)], ids=[f"d{i}" for i in range(3000)])
            updated: list[int] = []

            def update() -> None:
                i = len(updated)
                kb.add([f"Passage fresh{i:05d}"], ids=[f"d{i}"])
                updated.append(i)

            with _meanwhile(update):
                kb.rebuild()
            kb.rebuild()
            assert updated
            assert holders(folder, *(f"mark{i:05d}".encode() for i in updated)) == []
            assert {kb.index.get([f"d{i}"])[0].text for i in updated} == {f"Passage fresh{i:05d}" for i in updated}

    def test_two_rebuilds_at_once_take_turns(self, folder: Path, hashing: HashingEmbedder) -> None:
        with (
            KnowledgeBase.open(folder, embedder=hashing) as kb,
            KnowledgeBase.open(folder, embedder=hashing) as second,
        ):
            kb.add([f"Some passage {i}." for i in range(500)])
            errors: list[BaseException] = []

            def rebuild(store: KnowledgeBase) -> None:
                try:
                    store.rebuild()
                except BaseException as error:
                    errors.append(error)

            threads = [threading.Thread(target=rebuild, args=(store,)) for store in (kb, second, kb)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert errors == []
            assert kb.count() == second.count() == 500
            assert second.search("Some passage 77.", k=1)[0].text == "Some passage 77."
        assert [path.name for path in (folder / "knowledge.default").glob("gen-*")] == ["gen-000004"]

    def test_two_objects_see_one_store(self, folder: Path, hashing: HashingEmbedder) -> None:
        with KnowledgeBase.open(folder, embedder=hashing) as kb:
            second = KnowledgeBase.open(folder, embedder=hashing)
            kb.add(["The tide is high."], ids=["a"])
            second.add(["Bread is fresh."], ids=["b"])
            kb.rebuild()
            assert {record.id for record in second.index.scan()} == {"a", "b"}
            second.delete(["a"])
            second.close()
            assert [record.id for record in kb.index.scan()] == ["b"]
            kb.rebuild()
            assert kb.count() == 1
            with pytest.raises(StoreError, match="closed"):
                second.count()


class Failing(HashingEmbedder):
    """An embedding service that goes away."""

    def __init__(self, salt: str, after: int) -> None:
        super().__init__(salt)
        self._left = after

    def view(self, task: object) -> "Failing":  # type: ignore[override]
        self._view = super().view(task)  # type: ignore[arg-type]
        return self

    @property
    def fingerprint(self) -> str:
        return self._view.fingerprint

    @property
    def dim(self) -> int:
        return DIM

    def embed_queries(self, texts: list[str]) -> np.ndarray:
        return self._view.embed_queries(texts)

    def embed_keys(self, texts: list[str]) -> np.ndarray:
        self._left -= 1
        if self._left < 0:
            raise ConnectionError("The service went away.")
        return self._view.embed_keys(texts)

    def explain(self, text: str, side: str = "query") -> str:
        return text


class _meanwhile:  # noqa: N801  # reads as a statement
    """Do something over and over in a thread, and raise here what it raised there."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action
        self._stop = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._action()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        if self._error is not None:
            raise self._error


def _every_action(kb: KnowledgeBase) -> Iterator[Callable[[], object]]:
    yield lambda: kb.search("tide")
    yield lambda: kb.add(["new"])
    yield lambda: kb.delete(["a"])
    yield kb.count
    yield lambda: list(kb.index.scan())
    yield kb.rebuild
