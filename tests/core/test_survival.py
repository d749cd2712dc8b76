"""A process dies at a random moment: nothing that was acknowledged is lost, nothing that was deleted comes back.

Run as a script, this file is the process that dies: it forks a child for each round and tells its pid.
"""

import json
import os
import random
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from tests.core.conftest import HashingEmbedder

from quadrieve import FingerprintError, KnowledgeBase
from quadrieve.index.catalog import Catalog
from quadrieve.index.vectors import VectorFile

State = dict[str, tuple[str, int]]  # text and version by id

ROUNDS = 50
WORDS = "tide lamp gull bread ledger trail council seal harbour kettle frost window parcel".split()


class Journal:
    """What a process was about to do and what it was told is done, a line each; whole or not there."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def write(self, **entry: Any) -> None:
        os.write(self._file, (json.dumps(entry) + "\n").encode())
        os.fsync(self._file)


def add_delete_rebuild(folder: str, journal: Journal, seed: int) -> None:
    rng = random.Random(seed)
    with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
        journal.write(open=True)
        while True:
            action = rng.choice(["put", "put", "put", "delete", "delete_where", "rebuild"])
            if action == "put":
                ids = [f"r{i}" for i in rng.sample(range(300), rng.choice([1, 5, 60]))]
                versions = [rng.randrange(10**9) for _ in ids]
                texts = [f"{' '.join(rng.choices(WORDS, k=6))} code{version}" for version in versions]
                journal.write(put=dict(zip(ids, zip(texts, versions, strict=True), strict=True)))
                kb.add(texts, ids=ids, metadatas=[{"version": v, "group": v % 3} for v in versions])
            elif action == "delete":
                ids = [f"r{i}" for i in rng.sample(range(300), rng.choice([1, 20]))]
                journal.write(delete=ids)
                kb.delete(ids)
            elif action == "delete_where":
                edge = rng.randrange(10**9)
                held = {record.id: record.metadata["version"] for record in kb.index.scan()}
                journal.write(delete=[id for id, version in held.items() if edge <= version < edge + 10**8])
                kb.delete(where={"version": {"$gte": edge, "$lt": edge + 10**8}})
            else:
                journal.write(put={})
                kb.rebuild()
            journal.write(done=True)


def migrate(folder: str, journal: Journal, seed: int) -> None:
    class Telling(HashingEmbedder):
        def view(self, task: Any) -> Any:
            view = super().view(task)
            encode = view.embed_keys

            def embed_keys(texts: list[str]) -> np.ndarray:
                journal.write(encoding=len(texts))
                time.sleep(0.5)  # as an encoder takes its time, so that the kill comes before the end
                return encode(texts)

            view.embed_keys = embed_keys  # type: ignore[method-assign]
            return view

    with KnowledgeBase.open(folder, embedder=HashingEmbedder("a")) as kb:
        journal.write(open=True)
        kb.rebuild(Telling("b"))
        journal.write(done=True)


WORK: dict[str, Callable[[str, Journal, int], None]] = {"change": add_delete_rebuild, "migrate": migrate}


def serve() -> None:
    """Fork a child for each line that comes in."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background inherits that it is ignored
    for line in sys.stdin:
        work, folder, journal, seed = json.loads(line)
        pid = os.fork()
        if pid == 0:
            sys.stdin.close()
            try:
                WORK[work](folder, Journal(Path(journal)), seed)
            except KeyboardInterrupt:
                os._exit(0)
            except BaseException as error:
                Journal(Path(journal)).write(failed=repr(error))
                os._exit(1)
            os._exit(0)
        print(pid, flush=True)


class Doomed:
    """A process of its own that can be started at no cost."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.core.test_survival"]
        root = Path(__file__).parents[2]
        self._template = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
        self._turn = threading.Lock()

    def start(self, work: str, folder: Path, journal: Path, seed: int = 0) -> int:
        with self._turn:
            assert self._template.stdin is not None
            assert self._template.stdout is not None
            print(json.dumps([work, str(folder), str(journal), seed]), file=self._template.stdin, flush=True)
            return int(self._template.stdout.readline())

    def stop(self) -> None:
        assert self._template.stdin is not None
        self._template.stdin.close()
        self._template.wait()


@pytest.fixture(scope="module")
def doomed() -> Iterator[Doomed]:
    process = Doomed()
    yield process
    process.stop()


def end(pid: int, how: signal.Signals) -> None:
    """Send the signal until the process ends, as people press Ctrl-C again: Python loses one that hits a callback."""
    handle = os.pidfd_open(pid)
    try:
        for _ in range(12):
            signal.pidfd_send_signal(handle, how)
            if select.select([handle], [], [], 5)[0]:
                return
        pytest.fail("the process did not end")
    finally:
        os.close(handle)


def entries(journal: Path) -> list[dict[str, Any]]:
    # The last line may be half written when it is read.
    return [json.loads(line) for line in journal.read_text().split("\n")[:-1]] if journal.exists() else []


def wait_for(journal: Path, what: Callable[[list[dict[str, Any]]], bool]) -> None:
    deadline = time.monotonic() + 60
    while not what(entries(journal)):
        assert not any("failed" in entry for entry in entries(journal)), entries(journal)
        assert time.monotonic() < deadline, entries(journal)
        time.sleep(0.005)


def replay(state: State, journal: Path) -> tuple[State, dict[str, set[Any]]]:
    """The state that was acknowledged, and for each id that was in flight what it may be now."""
    told = entries(journal)
    assert not any("failed" in entry for entry in told), told[-1]
    state = dict(state)
    pending: dict[str, Any] = {}
    for entry in told:
        if "done" in entry:
            state.update({id: value for id, value in pending.items() if value is not None})
            for id, value in pending.items():
                if value is None:
                    state.pop(id, None)
            pending = {}
        elif "put" in entry:
            pending = {id: (text, version) for id, (text, version) in entry["put"].items()}
        elif "delete" in entry:
            pending = dict.fromkeys(entry["delete"])
    return state, {id: {state.get(id), after} for id, after in pending.items()}


def check(kb: KnowledgeBase, acknowledged: State, in_flight: dict[str, set[Any]], rng: random.Random) -> State:
    """Compare a store with what it must hold; returns what it holds."""
    found: State = {record.id: (record.text, record.metadata["version"]) for record in kb.index.scan()}
    for id in acknowledged.keys() | found.keys() | in_flight.keys():
        allowed = in_flight.get(id, {acknowledged.get(id)})
        assert found.get(id) in allowed, f"{id}: {found.get(id)} is none of {allowed}"
    assert kb.count() == len(found)
    for group in range(3):
        assert kb.count({"group": group}) == sum(version % 3 == group for _, version in found.values())
    for id in rng.sample(sorted(found), min(12, len(found))):
        text, version = found[id]
        for mode, query in (("dense", text), ("lexical", f"code{version}"), ("hybrid", f"code{version}")):
            best = kb.search(query, k=1, mode=mode, where={"group": version % 3})[0]
            assert (best.id, best.text, best.metadata["version"]) == (id, text, version), mode
        assert kb.search(text, k=1, mode="dense")[0].score > 0.999
    outdated = [old for values in in_flight.values() for old in values if old and old not in found.values()]
    outdated += [value for id, value in acknowledged.items() if found.get(id) != value]
    for _, version in outdated[:20]:
        assert kb.search(f"code{version}", mode="lexical") == []
    return found


def check_chroma(folder: Path, state: State) -> None:
    """Chroma's own client, which knows nothing of what lies beside it, finds the same."""
    index = folder / "knowledge.default"
    generation = index / f"gen-{int((index / 'current').read_text()) if (index / 'current').exists() else 1:06d}"
    client = chromadb.PersistentClient(generation)
    collection = client.get_collection("knowledge.default", embedding_function=None)
    stored = collection.get(include=["documents", "metadatas", "embeddings"])
    held = zip(stored["ids"], stored["documents"], stored["metadatas"], stored["embeddings"], strict=True)
    assert {id: (text, flat["version"]) for id, text, flat, _ in held} == state
    expected = HashingEmbedder().view("qa").embed_keys(stored["documents"]) if state else np.zeros((0, 1))
    np.testing.assert_allclose(np.asarray(stored["embeddings"]).reshape(expected.shape), expected, atol=1e-6)
    client.close()


def rounds_of_death(doomed: Doomed, folder: Path, lane: int, rounds: int, how: signal.Signals) -> int:
    """Kill, look, go on; returns how many kills hit an operation under way."""
    rng = random.Random(lane)
    state: State = {}
    hits = 0
    for i in range(rounds):
        journal = folder.with_name(f"{folder.name}-{i}.jsonl")
        pid = doomed.start("change", folder, journal, seed=1000 * lane + i)
        if rng.random() < 0.15:
            time.sleep(rng.uniform(0, 0.5))  # while it opens the store
        else:
            wait_for(journal, bool)
            time.sleep(rng.uniform(0, 1.0))
        end(pid, how)
        acknowledged, in_flight = replay(state, journal)
        hits += "done" not in (entries(journal) or [{"done": 1}])[-1]
        with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
            state = check(kb, acknowledged, in_flight, rng)
    check_chroma(folder, state)
    with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
        kb.rebuild()
        assert check(kb, state, {}, rng) == state
    assert len(list((folder / "knowledge.default").glob("gen-*"))) == 1
    return hits


def test_fifty_kills_lose_nothing_and_bring_nothing_back(doomed: Doomed, tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as lanes:
        runs = [
            lanes.submit(rounds_of_death, doomed, tmp_path / f"store{lane}", lane, ROUNDS // 2, signal.SIGKILL)
            for lane in range(2)
        ]
        hits = sum(run.result() for run in runs)
    assert hits > ROUNDS // 4, "too few kills hit an operation under way to show anything"


def test_an_interrupt_leaves_nothing_half_written(doomed: Doomed, tmp_path: Path) -> None:
    rounds_of_death(doomed, tmp_path / "store", lane=7, rounds=10, how=signal.SIGINT)


def test_a_store_opens_that_was_killed_while_it_was_made(doomed: Doomed, tmp_path: Path) -> None:
    for i in range(10):
        folder, journal = tmp_path / str(i), tmp_path / f"{i}.jsonl"
        pid = doomed.start("change", folder, journal)
        time.sleep(i * 0.03)
        end(pid, signal.SIGKILL)
        with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
            check(kb, *replay({}, journal), random.Random(i))


def test_a_migration_goes_on_after_a_kill(doomed: Doomed, tmp_path: Path) -> None:
    folder, old, new = tmp_path / "store", HashingEmbedder("a"), HashingEmbedder("b")
    texts = {f"r{i}": f"{WORDS[i % len(WORDS)]} code{i}" for i in range(4000)}
    with KnowledgeBase.open(folder, embedder=old) as kb:
        kb.add(texts.values(), ids=list(texts), metadatas=[{"version": i} for i in range(len(texts))])
    encoded = 0
    for kill in range(2):
        journal = tmp_path / f"{kill}.jsonl"
        pid = doomed.start("migrate", folder, journal)
        wait_for(journal, lambda told: sum("encoding" in entry for entry in told) >= 2)
        end(pid, signal.SIGKILL)
        encoded += sum(entry.get("encoding", 0) for entry in entries(journal))
        with KnowledgeBase.open(folder, embedder=old) as kb:
            assert kb.count() == len(texts)
            for i in (0, 1023, 3999):
                assert kb.search(texts[f"r{i}"], k=1, mode="dense")[0].id == f"r{i}"
                assert kb.search(f"code{i}", k=1, mode="lexical")[0].id == f"r{i}"
    with KnowledgeBase.open(folder, embedder=old) as kb:
        kb.rebuild(new)
        assert 0 < len(new.encoded) < len(texts) / 2
        assert len(new.encoded) + encoded < 2 * len(texts)
        assert kb.count() == len(texts)
        assert kb.search("tide code3900", k=1, mode="dense")[0].text == "tide code3900"
    with pytest.raises(FingerprintError):
        KnowledgeBase.open(folder, embedder=old)
    with KnowledgeBase.open(folder, embedder=new) as kb:
        found = {record.id: record.text for record in kb.index.scan(vectors=True)}
        assert found == texts


def test_what_lies_beside_chroma_is_made_again_from_it(tmp_path: Path) -> None:
    folder = tmp_path / "store"
    with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
        kb.add(["the tide rises", "the lamp burns"], ids=["a", "b"])
    for lost in ("catalog.sqlite3", "vectors.f32"):
        (folder / "knowledge.default" / "gen-000001" / lost).unlink()
        with KnowledgeBase.open(folder, embedder=HashingEmbedder()) as kb:
            assert kb.search("the tide rises", k=1, mode="dense")[0].score > 0.999
            assert [hit.id for hit in kb.search("lamp", mode="lexical")] == ["b"]


@pytest.mark.parametrize("step", [(VectorFile, "put"), (Catalog, "put"), (Catalog, "delete")])
@pytest.mark.parametrize("reopen", [True, False])
def test_what_chroma_was_told_counts_when_the_rest_failed(
    step: tuple[type, str], reopen: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk or an interrupt between Chroma and what lies beside it, and an orderly end after it."""
    owner, name = step
    kb = KnowledgeBase.open(tmp_path / "store", embedder=HashingEmbedder())
    kb.add(["the tide rises", "the lamp burns"], ids=["a", "b"])
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, _full_disk)
        with pytest.raises(OSError, match="No space left"):
            kb.delete(["a"]) if name == "delete" else kb.add(["the gull cries"], ids=["c"])
    if reopen:
        kb.close()
        kb = KnowledgeBase.open(tmp_path / "store", embedder=HashingEmbedder())
    else:
        kb.add(["bread"], ids=["d"])
    expected = {"b"} if name == "delete" else {"a", "b", "c"}
    assert {record.id for record in kb.index.scan()} == expected | (set() if reopen else {"d"})
    assert {hit.id for hit in kb.search("gull tide", mode="lexical")} == (set() if name == "delete" else {"a", "c"})
    kb.close()


def _full_disk(*_: object) -> None:
    raise OSError(28, "No space left on device")


if __name__ == "__main__":
    serve()
