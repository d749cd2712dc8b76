# ruff: noqa: E501, RUF001  # the names are better read in long rows, and look like others on purpose
"""Two hundred tenants with hostile names in one store: whatever one does, no other notices."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.core.conftest import HashingEmbedder

from quadrieve import InputError, Memory

SHARED = "The password of the house is swordfish."

_ODD = [
    "a", "A", "aa", "a ", " a", "a.", ".a", "a.b", "a/b", "a\\b", "a\x00", "a\x00b", "\x00", "\x00a", "..", ".", "/", "//",
    "../a", "a/../b", "*", "%", "a%", "a_", "_", "?", "$ne", "$and", '{"$ne": null}', '["a"]', '["a","b"]', '["a"', '"a"',
    '","', '"],["', "'", "''", "a' OR '1'='1", '"; DROP TABLE record; --', "--", "\\", "\\u0000", "\\x00", "\n", "a\nb", "\t",
    "\r\n", "null", "None", "true", "0", "1", "1.0", "01", "-1", "NaN", "ns", "space", "text", "lexicon", "quadrieve:namespace",
    "🙂", "🙂🙂", "👩‍👩‍👧", "👩", "é", "e\u0301", "É", "ß", "ss", "ſs", "İ", "i", "ı", "ﬁ", "fi", "你", "你好", "שלום", "\u202eabc",
    "\u200b", "\ufeff", "\ufeffa", "Å", "\u212b", "A\u030a", "\ud7ff", "\U0010ffff", "a" * 499, "a" * 500, "a" * 501, "é" * 500,
]  # fmt: skip

_LEVELS = [
    ("acme",), ("acme-corp",), ("acme", "corp"), ("acme", "corp", "ada"), ("acme", "corpus"), ("acme", "corp", "ada", "x"),
    ("acme.corp",), ("acme/corp",), ("acme", "corp/ada"), ("acme/corp", "ada"), ("acme\x00corp",), ("acme", "\x00corp"),
    ("acme\x00", "corp"), ("acme,corp",), ('acme","corp',), ('["acme","corp"]',), ("a", "b"), ("b", "a"), ("a", "a"), ("ab",),
    ("a", "b", "c"), ("ab", "c"), ("a", "bc"), (".", "."), ("..",), ("/", "/"), ("//", "x"), ("🙂", "🙂"), ("$or", "$and"),
]  # fmt: skip


def namespaces() -> list[tuple[str, ...]]:
    names = dict.fromkeys([(name,) for name in _ODD] + _LEVELS)
    for i in range(200 - len(names)):
        names[("user", "x" * (i + 1))] = None
    return list(names)


NAMESPACES = namespaces()


def canary(i: int) -> str:
    return f"My canary is called bird{i:03d}."


@pytest.fixture(scope="module")
def tenants(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[tuple[str, ...], Memory]]:
    """All of them, who have written, in a store that was closed and opened again. To be read only."""
    folder = tmp_path_factory.mktemp("tenants") / "store"
    with Memory.open(folder, embedder=HashingEmbedder(), user="first") as first:
        write_all(first)
        for i, memory in list(enumerate(all_of(first).values()))[::10]:
            memory.remember(canary(i))
            memory.remember(SHARED)
    with Memory.open(folder, embedder=HashingEmbedder(), user="first") as first:
        yield all_of(first)


@pytest.fixture
def changing() -> Iterator[dict[tuple[str, ...], Memory]]:
    """All of them, in memory, to be changed."""
    with Memory.open(None, embedder=HashingEmbedder(), user="first") as first:
        write_all(first)
        yield all_of(first)


def all_of(memory: Memory) -> dict[tuple[str, ...], Memory]:
    return {name: Memory(memory.index, name) for name in NAMESPACES}


def write_all(memory: Memory) -> None:
    """What each remembers, in one go: two hundred times two calls take a minute."""
    entry = {"at": 1000.0, "source": "user", "kind": "canary"}
    memory.index.write(
        [
            tenant._record(text, entry)
            for i, tenant in enumerate(all_of(memory).values())
            for text in (SHARED, canary(i))
        ]
    )


def holdings(tenants: dict[tuple[str, ...], Memory]) -> dict[tuple[str, ...], set[str]]:
    return {name: {record.text for record in memory.index.scan(namespace=name)} for name, memory in tenants.items()}


def test_there_are_two_hundred() -> None:
    assert len(NAMESPACES) == len(set(NAMESPACES)) == 200


@pytest.mark.parametrize("mode", ["dense", "lexical", "hybrid"])
def test_recall_finds_all_of_ones_own_and_nothing_else(tenants: dict[tuple[str, ...], Memory], mode: str) -> None:
    for i, memory in enumerate(tenants.values()):
        own = {SHARED, canary(i)}
        for query in (SHARED, canary(i), canary((i + 1) % 200)):
            hits = memory.recall(query, k=10, mode=mode)  # type: ignore[arg-type]
            assert {hit.text for hit in hits} <= own
            assert len(hits) == len({hit.id for hit in hits}) <= 2
            if mode != "lexical":
                assert {hit.text for hit in hits} == own
        assert memory.recall(canary(i), k=1, mode=mode)[0].text == canary(i)  # type: ignore[arg-type]
        assert memory.recall(f"bird{(i + 1) % 200:03d}", mode="lexical") == []


def test_a_filter_reaches_over_no_border(tenants: dict[tuple[str, ...], Memory]) -> None:
    for i, memory in enumerate(tenants.values()):
        wide = {"$or": [{"kind": "canary"}, {"kind": {"$ne": "canary"}}, {"at": {"$gt": 0}}]}
        assert {hit.text for hit in memory.recall(SHARED, k=10, where=wide)} == {SHARED, canary(i)}
    for key in ("quadrieve:namespace", "quadrieve:within", "quadrieve:expires"):
        with pytest.raises(InputError, match="Cannot filter"):
            memory.recall(SHARED, where={key: {"$ne": "x"}})


def test_the_same_words_are_stored_once_for_each(tenants: dict[tuple[str, ...], Memory]) -> None:
    ids = [record.id for memory in tenants.values() for record in memory.index.scan(namespace=memory.namespace)]
    assert len(ids) == len(set(ids)) == 400
    assert [memory.count() for memory in tenants.values()] == [2] * 200


def test_what_one_recalled_another_may_still_say(changing: dict[tuple[str, ...], Memory]) -> None:
    first, second, *_ = changing.values()
    first.recall(SHARED)
    kept = first.remember(SHARED, source="assistant")
    assert kept == [hit.id for hit in first.recall(SHARED, k=1)]
    assert second.remember(SHARED, source="assistant") != kept
    assert (first.count(), second.count()) == (2, 3)


def test_forgetting_leaves_the_neighbours(changing: dict[tuple[str, ...], Memory]) -> None:
    expected = holdings(changing)
    names = list(changing)
    all_ids = [record.id for record in changing[names[0]].index.scan()]
    for i, name in enumerate(names[:60]):
        memory = changing[name]
        if i % 3 == 0:
            assert memory.forget(all_ids) == 2
        elif i % 3 == 1:
            assert memory.forget(everything=True) == 2
        else:
            assert memory.forget(before="2100-01-01") == 2
        expected[name] = set()
        assert memory.count() == 0
    assert holdings(changing) == expected
    assert changing[names[0]].forget(all_ids) == 0


def test_a_sweep_leaves_the_neighbours(changing: dict[tuple[str, ...], Memory]) -> None:
    names = list(changing)
    for name in names[:20]:
        changing[name].remember("Gone in a moment.", ttl=0.05)
    time.sleep(0.06)
    assert all("Gone in a moment." not in {hit.text for hit in changing[name].recall("Gone", k=9)} for name in names)
    assert changing[names[30]].sweep() == 0
    assert changing[names[0]].sweep() == 1
    assert all("Gone in a moment." in texts for texts in list(holdings(changing).values())[1:20])
    assert all(memory.count() == 2 for memory in changing.values())


def test_an_export_holds_ones_own_and_an_import_becomes_ones_own(
    changing: dict[tuple[str, ...], Memory], tmp_path: Path
) -> None:
    path = tmp_path / "export.jsonl"
    for i, (name, memory) in enumerate(changing.items()):
        if i % 10 == 0:
            assert memory.export(path) == 2
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            assert {line["text"] for line in lines} == {SHARED, canary(i)}
            assert {tuple(line["namespace"]) for line in lines} == {name}
    before = holdings(changing)
    receiver = list(changing)[7]
    changing[receiver].restore(path)
    assert holdings(changing) == {**before, receiver: before[receiver] | {canary(190)}}


def test_within_is_exact_by_level(tenants: dict[tuple[str, ...], Memory]) -> None:
    index = next(iter(tenants.values())).index
    prefixes = {name[:level] for name in NAMESPACES for level in range(1, len(name) + 1)} | {("nobody",), ("acm",)}
    for prefix in prefixes:
        below = {name for name in NAMESPACES if name[: len(prefix)] == prefix}
        assert {record.namespace for record in index.get(within=prefix)} == below
        assert index.count(within=prefix) == 2 * len(below)
        hits = index.search(SHARED, k=400, within=prefix)
        assert len(hits) == 2 * len(below)
    assert index.count(within=()) == 400


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=4), min_size=1, max_size=3),
        min_size=2,
        max_size=6,
        unique_by=tuple,
    )
)
def test_any_names_keep_apart(names: list[list[str]]) -> None:
    with Memory.open(None, embedder=HashingEmbedder(), user="first") as first:
        memories = [Memory(first.index, tuple(name)) for name in names]
        for i, memory in enumerate(memories):
            memory.remember(canary(i))
        for i, memory in enumerate(memories):
            assert [hit.text for hit in memory.recall(canary(0), k=9)] == [canary(i)]
            below = {canary(j) for j, name in enumerate(names) if name[: len(names[i])] == names[i]}
            assert {record.text for record in first.index.get(within=tuple(names[i]))} == below
        assert memories[0].forget(everything=True) == 1
        assert [memory.count() for memory in memories] == [0] + [1] * (len(memories) - 1)


@pytest.mark.parametrize("name", ["", (), ("a", ""), ("",), None, 3, ("a", 3), "half \ud83d"])
def test_what_is_no_name_is_refused(name: object, hashing: HashingEmbedder) -> None:
    with pytest.raises(InputError):
        Memory.open(None, embedder=hashing, user=name)  # type: ignore[arg-type]
