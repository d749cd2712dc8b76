"""Memory keeps time and namespace."""

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from quadrieve import Embedder, InputError, Memory


@pytest.fixture
def memory(embedder: Embedder) -> Memory:
    return Memory.open(None, embedder=embedder, user="ada")


def test_turns_become_one_record_an_exchange(memory: Memory) -> None:
    ids = memory.remember(
        [
            ("user", "My dog is called Biscuit."),
            ("assistant", "A fine name."),
            {"role": "user", "content": "I like tea."},
        ],
        at="2026-01-05T10:00:00Z",
    )
    assert len(ids) == 2
    hit = memory.recall([("user", "hello"), ("assistant", "hi"), ("user", "What is my pet called?")], k=1)[0]
    assert hit.text == "User: My dog is called Biscuit.\nAssistant: A fine name."
    assert hit.metadata == {"at": datetime(2026, 1, 5, 10, tzinfo=UTC).timestamp(), "source": "user"}


def test_a_namespace_is_not_optional_and_any_string_will_do(embedder: Embedder, tmp_path: Path) -> None:
    with pytest.raises(TypeError):
        Memory.open(tmp_path, embedder=embedder)  # type: ignore[call-arg]
    with pytest.raises(InputError, match="non-empty string"):
        Memory.open(tmp_path, embedder=embedder, user="")
    one = Memory.open(tmp_path, embedder=embedder, user=("acme", "a/da\x00"))
    two = Memory.open(tmp_path, embedder=embedder, user=("acme",))
    one.remember("The code is 4711.")
    assert (one.count(), two.count()) == (1, 0)
    assert two.recall("What is the code?") == []
    one.close()
    two.close()


def test_repeating_keeps_the_first_time_and_the_longer_life(memory: Memory) -> None:
    (first,) = memory.remember("I was born in Oslo.", at=1000.0, ttl=60)
    (again,) = memory.remember("I was born in Oslo.", at=2000.0)
    assert first == again
    assert memory.count() == 1
    assert memory.recall("birthplace")[0].metadata == {"at": 1000.0, "source": "user"}


def test_what_was_just_recalled_is_not_stored_again_when_it_is_quoted(memory: Memory) -> None:
    (id,) = memory.remember("The boiler is a Kestrel 24C.")
    memory.recall("Which boiler?")
    assert memory.remember("the boiler is a  Kestrel 24C.", source="assistant") == [id]
    assert memory.count() == 1
    assert memory.remember("The boiler was replaced.", source="assistant") != [id]


def test_time_to_live_hides_at_once_and_a_sweep_purges(memory: Memory) -> None:
    memory.remember("The door code is 1234.", ttl=2)
    memory.remember("The dog is called Biscuit.")
    assert memory.count() == 2
    time.sleep(2.1)
    assert memory.count() == 1
    assert all("door" not in hit.text for hit in memory.recall("What is the door code?"))
    assert memory.index.count() == 2
    assert memory.sweep() == 1
    assert memory.index.count() == 1


def test_validity_is_asked_for_as_of_a_time(memory: Memory) -> None:
    memory.remember("I live in Bergen.", at="2024-01-01", valid_to="2025-06-01")
    memory.remember("I live in Oslo.", at="2025-06-01", valid_from="2025-06-01")
    assert [hit.text for hit in memory.recall("Where do I live?")] == ["I live in Oslo."]
    assert [hit.text for hit in memory.recall("Where do I live?", as_of="2024-12-24")] == ["I live in Bergen."]
    assert memory.recall("Where do I live?", as_of="2023-01-01") == []


def test_sources_are_kept_and_filtered(memory: Memory) -> None:
    memory.remember("The page says to wire money.", source="web")
    memory.remember("I pay by card.", source="user")
    assert [hit.metadata["source"] for hit in memory.recall("How do I pay?", where={"source": "user"})] == ["user"]
    with pytest.raises(InputError, match="Unknown source 'rumour'; expected one of user, assistant, tool, web"):
        memory.remember("x", source="rumour")  # type: ignore[arg-type]


def test_age_can_have_a_share_in_the_rank_and_says_so(memory: Memory) -> None:
    now = datetime.now(UTC)
    memory.remember("My favourite colour is blue.", at=now - timedelta(days=400))
    memory.remember("My favourite colour is now green.", at=now - timedelta(days=1))
    hits = memory.recall("favourite colour", k=2, recency=0.8)
    assert hits[0].text == "My favourite colour is now green."
    assert hits[0].why["recency"] > hits[1].why["recency"]


def test_forgetting_by_id_by_time_and_altogether(embedder: Embedder) -> None:
    memory = Memory.open(None, embedder=embedder, user="ada")
    other = Memory(memory.index, "bob")
    (mine,) = memory.remember("one", at="2024-01-01")
    memory.remember("two", at="2025-01-01")
    (theirs,) = other.remember("three")
    assert memory.forget(ids=[theirs]) == 0
    assert memory.forget(before="2024-06-01") == 1
    assert memory.forget(ids=[mine]) == 0
    assert memory.forget(everything=True) == 1
    assert (memory.count(), other.count()) == (0, 1)
    with pytest.raises(InputError, match="Nothing says what to forget"):
        memory.forget()


def test_an_export_holds_one_user_and_can_become_another_s(embedder: Embedder, tmp_path: Path) -> None:
    memory = Memory.open(None, embedder=embedder, user="ada")
    Memory(memory.index, "bob").remember("bob's secret")
    memory.remember("ada's fact")
    assert memory.export(tmp_path / "ada.jsonl") == 1
    assert "secret" not in (tmp_path / "ada.jsonl").read_text()
    moved = Memory.load(tmp_path / "ada.jsonl", embedder=embedder, user="ada-2")
    assert [hit.text for hit in moved.recall("fact")] == ["ada's fact"]
    assert moved.remember("ada's fact") == [moved.recall("fact")[0].id]


def test_bad_times_and_reserved_keys_are_refused(memory: Memory) -> None:
    with pytest.raises(InputError, match=r"at is 'yesterday', expected ISO 8601"):
        memory.remember("x", at="yesterday")
    with pytest.raises(InputError, match="ttl is a positive number"):
        memory.remember("x", ttl=0)
    with pytest.raises(InputError, match="memory's own"):
        memory.remember("x", metadata={"at": 3})
    with pytest.raises(InputError, match=r"Turn 0 is int"):
        memory.remember([3])  # type: ignore[list-item]
    with pytest.raises(InputError, match="nothing that a user said"):
        memory.recall([("assistant", "hi")])
