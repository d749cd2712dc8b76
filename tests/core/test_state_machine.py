"""Any sequence of operations on an index does what the same sequence does to a dictionary."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from tests.core.conftest import HashingEmbedder

from quadrieve import Index, Record, Role
from quadrieve.index.filters import read_filter
from quadrieve.index.transfer import read_lines, write_lines

WORDS = "tide lamp gull bread ledger trail".split()
IDS = ["a", "b", "c", "A", "a\x00", "🙂", '"', "x" * 300]
NAMESPACES: list[tuple[str, ...]] = [(), ("acme",), ("acme", "corp"), ("acme-corp",), ("a\x00", "/")]

ids = st.sampled_from(IDS)
texts = st.lists(st.sampled_from([*WORDS, "ERR-4711", "Ünï", ""]), max_size=6).map(" ".join)
namespaces = st.sampled_from(NAMESPACES)
values = st.one_of(st.integers(-3, 3), st.sampled_from([0.5, True, False, "x", "y", ""]))
metadata = st.dictionaries(
    st.sampled_from(["n", "s"]), st.one_of(values, st.none(), st.fixed_dictionaries({"deep": values})), max_size=2
) | st.fixed_dictionaries({"tags": st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=2)})
records = st.builds(Record, ids, texts, metadata, namespace=namespaces)

Matches = Callable[[Record], bool]


def reach(record: Record, key: str) -> Any:
    value: Any = record.metadata
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return None if isinstance(value, dict) else value


def number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def equal(value: object, other: object) -> bool:
    """As JSON compares: `1 == 1.0`, and `1` is not `True`."""
    alike = type(value) is type(other) or (number(value) and number(other))
    return alike and value == other


@st.composite
def conditions(draw: st.DrawFn) -> tuple[dict[str, Any], Matches]:
    """A filter, and what it means."""
    key = draw(st.sampled_from(["n", "s", "n.deep", "s.deep", "tags", "none"]))
    operator = draw(
        st.sampled_from(["$eq", "$ne", "$in", "$nin", "$gt", "$gte", "$lt", "$lte", "$contains", "$not_contains"])
    )
    if operator in ("$in", "$nin"):
        several = draw(st.lists(values, min_size=1, max_size=3))
        found: Matches = lambda record: any(equal(reach(record, key), other) for other in several)  # noqa: E731
        return {key: {operator: several}}, found if operator == "$in" else lambda record: not found(record)
    if operator in ("$contains", "$not_contains"):
        one = draw(st.sampled_from(["x", "y", "z"]))
        holds: Matches = lambda record: isinstance(reach(record, key), list) and one in reach(record, key)  # noqa: E731
        return {key: {operator: one}}, holds if operator == "$contains" else lambda record: not holds(record)
    if operator in ("$eq", "$ne"):
        value = draw(values)
        same: Matches = lambda record: equal(reach(record, key), value)  # noqa: E731
        return {key: {operator: value}}, same if operator == "$eq" else lambda record: not same(record)
    edge = draw(st.integers(-3, 3))
    ordered = {
        "$gt": lambda value: value > edge,
        "$gte": lambda value: value >= edge,
        "$lt": lambda value: value < edge,
        "$lte": lambda value: value <= edge,
    }[operator]
    return {key: {operator: edge}}, lambda record: number(reach(record, key)) and ordered(reach(record, key))


@st.composite
def filters(draw: st.DrawFn) -> tuple[dict[str, Any] | None, Matches]:
    parts = draw(st.lists(conditions(), max_size=2))
    if not parts:
        return None, lambda record: True
    if len(parts) == 1:
        return parts[0]
    operator, combine = draw(st.sampled_from([("$and", all), ("$or", any)]))
    return {operator: [where for where, _ in parts]}, lambda record: combine(matches(record) for _, matches in parts)


class IndexMachine(RuleBasedStateMachine):
    """The model is a dictionary of records; the index lies in a folder."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="quadrieve-"))
        self.embedder = HashingEmbedder()
        self.model: dict[str, Record] = {}
        self.index = self.open(self.root / "store")

    def open(self, folder: Path) -> Index:
        return Index.open(folder, view=self.embedder.view("qa"), role=Role.KNOWLEDGE)

    def teardown(self) -> None:
        if hasattr(self, "index"):
            self.index.close()
            shutil.rmtree(self.root)

    def expected(self, matches: Matches, namespace: tuple[str, ...] | None, within: tuple[str, ...] | None) -> set[str]:
        return {
            id
            for id, record in self.model.items()
            if matches(record)
            and (namespace is None or record.namespace == namespace)
            and (within is None or record.namespace[: len(within)] == within)
        }

    @rule(some=st.lists(records, min_size=1, max_size=5, unique_by=lambda record: record.id))
    def write(self, some: list[Record]) -> None:
        assert self.index.write(some) == [record.id for record in some]
        self.model.update({record.id: record for record in some})

    @rule()
    def write_again(self) -> None:
        self.embedder.encoded.clear()
        self.index.write(list(self.model.values()))
        assert self.embedder.encoded == []

    @rule(some=st.lists(ids, min_size=1, max_size=3), namespace=st.none() | namespaces)
    def delete_by_id(self, some: list[str], namespace: tuple[str, ...] | None) -> None:
        gone = self.expected(lambda record: record.id in some, namespace, None)
        assert self.index.delete(some, namespace=namespace) == len(gone)
        self.model = {id: record for id, record in self.model.items() if id not in gone}

    @rule(condition=filters(), namespace=st.none() | namespaces, within=st.none() | namespaces)
    def delete_by_filter(
        self,
        condition: tuple[dict[str, Any] | None, Matches],
        namespace: tuple[str, ...] | None,
        within: tuple[str, ...] | None,
    ) -> None:
        where, matches = condition
        if where is None and namespace is None and within is None:
            return
        gone = self.expected(matches, namespace, within)
        assert self.index.delete(filter=read_filter(where), namespace=namespace, within=within) == len(gone)
        self.model = {id: record for id, record in self.model.items() if id not in gone}

    @rule(condition=filters(), namespace=st.none() | namespaces, within=st.none() | namespaces)
    def count_and_get(
        self,
        condition: tuple[dict[str, Any] | None, Matches],
        namespace: tuple[str, ...] | None,
        within: tuple[str, ...] | None,
    ) -> None:
        where, matches = condition
        expected = self.expected(matches, namespace, within)
        scope = {"filter": read_filter(where), "namespace": namespace, "within": within}
        assert self.index.count(**scope) == len(expected)  # type: ignore[arg-type]
        found = self.index.get(**scope, vectors=True)  # type: ignore[arg-type]
        assert {record.id: record for record in found} == {id: self.model[id] for id in expected}
        for record in found:
            np.testing.assert_allclose(record.vector, self.vector(record.text), atol=1e-6)
        some = ["c", "nothing", "a\x00", "a"]
        assert [record.id for record in self.index.get(some, **scope)] == [id for id in some if id in expected]  # type: ignore[arg-type]

    @rule(
        query=texts,
        k=st.integers(1, 6),
        condition=filters(),
        namespace=st.none() | namespaces,
        within=st.none() | namespaces,
        mode=st.sampled_from(["dense", "lexical", "hybrid"]),
        min_score=st.none() | st.sampled_from([0.0, 0.5]),
        among=st.none() | st.lists(ids, max_size=4),
    )
    def search(
        self,
        query: str,
        k: int,
        condition: tuple[dict[str, Any] | None, Matches],
        namespace: tuple[str, ...] | None,
        within: tuple[str, ...] | None,
        mode: Any,
        min_score: float | None,
        among: list[str] | None,
    ) -> None:
        where, matches = condition
        hits = self.index.search(
            query,
            k,
            filter=read_filter(where),
            namespace=namespace,
            within=within,
            mode=mode,
            min_score=min_score,
            ids=among,
        )
        candidates = self.expected(
            lambda record: matches(record) and (among is None or record.id in among), namespace, within
        )
        asked = self.embedder.view("qa").embed_queries([query])[0]
        cosines = {id: float(asked @ self.vector(self.model[id].text)) for id in candidates}
        if min_score is not None:
            cosines = {id: score for id, score in cosines.items() if score >= min_score}
        sharing = {id for id in cosines if words(self.model[id].text) & words(query)}
        assert len(hits) == len({hit.id for hit in hits}) == min(k, len(sharing if mode == "lexical" else cosines))
        for hit in hits:
            record = self.model[hit.id]
            assert (hit.text, hit.metadata) == (record.text, record.metadata)
            assert hit.score == pytest.approx(cosines[hit.id], abs=1e-5)
            assert set(hit.why) <= {"dense", "lexical"}
            assert ("lexical" in hit.why) == (mode != "dense" and hit.id in sharing)
            assert ("dense" in hit.why) == (mode != "lexical")
        if mode == "dense":
            best = sorted(cosines.values(), reverse=True)[:k]
            assert [hit.score for hit in hits] == pytest.approx(best, abs=1e-5)
        if mode == "lexical":
            assert {hit.id for hit in hits} <= sharing

    @rule()
    def reopen(self) -> None:
        self.index.close()
        self.index = self.open(self.root / "store")

    @rule()
    def rebuild(self) -> None:
        self.embedder.encoded.clear()
        self.index.rebuild()
        assert self.embedder.encoded == []

    @rule()
    def migrate(self) -> None:
        self.embedder = HashingEmbedder("b" if self.embedder.salt == "a" else "a")
        self.index.rebuild(self.embedder.view("qa"))
        assert set(self.embedder.encoded) == {record.text for record in self.model.values()}

    @rule(vectors=st.booleans(), within=st.none() | namespaces)
    def export_and_import(self, vectors: bool, within: tuple[str, ...] | None) -> None:
        path = self.root / "export.jsonl"
        fingerprint = self.index.view.fingerprint
        expected = {id: self.model[id] for id in self.expected(lambda record: True, None, within)}
        assert write_lines(path, self.index.scan(within=within, vectors=vectors), fingerprint) == len(expected)
        self.embedder.encoded.clear()
        with Index.open(None, view=self.embedder.view("qa"), role=Role.KNOWLEDGE) as copy:
            copy.write(list(read_lines(path, fingerprint)))
            assert {record.id: record for record in copy.get()} == expected
        assert self.embedder.encoded == [] or not vectors

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        if hasattr(self, "index"):
            assert self.index.count() == len(self.model)
            assert {record.id: record for record in self.index.scan()} == self.model

    def vector(self, text: str) -> np.ndarray:
        return self.embedder.view("qa").embed_queries([text])[0]


def words(text: str) -> set[str]:
    return set(text.lower().replace("ünï", "uni").replace("-", " ").split())


TestIndex = IndexMachine.TestCase
TestIndex.settings = settings(
    max_examples=6,
    stateful_step_count=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
