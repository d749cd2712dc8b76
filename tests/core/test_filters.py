"""Filters mean the same in memory as in Chroma, and as a plain reading of them."""

import uuid
from typing import Any

import chromadb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve import InputError
from quadrieve.index.columns import Columns
from quadrieve.index.filters import Combination, Comparison, Filter, Within, for_chroma, read_filter
from quadrieve.index.records import NAMESPACE, flatten, namespace_key

KEYS = st.sampled_from(["a", "b", "c.d"])
SCALARS = st.one_of(st.integers(-3, 3), st.sampled_from(["x", "y", ""]), st.booleans(), st.sampled_from([0.5, 1.5]))
FLAT = st.dictionaries(
    KEYS, st.one_of(SCALARS, st.lists(st.sampled_from(["x", "y"]), min_size=1, max_size=3)), max_size=3
)


def comparisons() -> st.SearchStrategy[dict[str, Any]]:
    return st.one_of(
        st.builds(lambda key, value: {key: value}, KEYS, SCALARS),
        st.builds(lambda k, op, v: {k: {op: v}}, KEYS, st.sampled_from(["$eq", "$ne"]), SCALARS),
        st.builds(
            lambda k, op, v: {k: {op: v}}, KEYS, st.sampled_from(["$gt", "$gte", "$lt", "$lte"]), st.integers(-3, 3)
        ),
        st.builds(
            lambda k, op, v: {k: {op: v}},
            KEYS,
            st.sampled_from(["$in", "$nin"]),
            st.lists(SCALARS, min_size=1, max_size=3),
        ),
        st.builds(
            lambda k, op, v: {k: {op: v}}, KEYS, st.sampled_from(["$contains", "$not_contains"]), st.sampled_from("xy")
        ),
    )


FILTERS = st.recursive(
    comparisons(),
    lambda inner: st.builds(
        lambda operator, parts: {operator: parts},
        st.sampled_from(["$and", "$or"]),
        st.lists(inner, min_size=1, max_size=3),
    ),
    max_leaves=4,
)


def plainly(filter: Filter, flat: dict[str, Any]) -> bool:
    """A filter, read as slowly and plainly as can be."""
    if isinstance(filter, Combination):
        results = [plainly(part, flat) for part in filter.parts]
        return all(results) if filter.operator == "$and" else any(results)
    assert isinstance(filter, Comparison)
    value, wanted = flat.get(filter.key), filter.value

    def same(a: Any, b: Any) -> bool:
        return a == b and isinstance(a, bool) == isinstance(b, bool) and isinstance(a, str) == isinstance(b, str)

    number = isinstance(value, int | float) and not isinstance(value, bool)
    listed = value if isinstance(value, list) else []
    among = wanted if isinstance(wanted, tuple) else (wanted,)
    match filter.operator:
        case "$eq" | "$in":
            return not isinstance(value, list) and any(same(value, each) for each in among)
        case "$ne" | "$nin":
            return isinstance(value, list) or not any(same(value, each) for each in among)
        case "$contains":
            return any(same(part, wanted) for part in listed)
        case "$not_contains":
            return not any(same(part, wanted) for part in listed)
        case "$gt":
            return number and value > wanted
        case "$gte":
            return number and value >= wanted
        case "$lt":
            return number and value < wanted
        case "$lte":
            return number and value <= wanted


@settings(max_examples=300, deadline=None)
@given(st.lists(FLAT, min_size=1, max_size=8), FILTERS)
def test_columns_agree_with_a_plain_reading(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    columns = Columns()
    for slot, flat in enumerate(rows):
        columns.put(slot, flat)
    filter = read_filter(where)
    assert filter is not None
    found = columns.mask(filter)[: len(rows)].tolist()
    assert found == [plainly(filter, flat) for flat in rows]


@settings(max_examples=40, deadline=None)
@given(st.lists(FLAT.filter(bool), min_size=1, max_size=5), st.builds(lambda k, v: {k: v}, KEYS, st.integers(-3, 3)))
def test_chroma_agrees_on_what_both_can_say(rows: list[dict[str, Any]], where: dict[str, Any]) -> None:
    filter = read_filter(where)
    assert filter is not None
    client = chromadb.EphemeralClient()
    collection = client.create_collection(f"c{uuid.uuid4().hex}", embedding_function=None)
    ids = [str(i) for i in range(len(rows))]
    collection.add(ids=ids, embeddings=[[1.0, 0.0]] * len(rows), metadatas=rows)  # type: ignore[arg-type]
    found = set(collection.get(where=for_chroma(filter))["ids"])
    client.delete_collection(collection.name)
    assert found == {str(i) for i, flat in enumerate(rows) if plainly(filter, flat)}


def test_a_cleared_slot_holds_nothing_of_before() -> None:
    columns = Columns()
    columns.put(0, {"a": 1, "b": "x", "c": True, "d": ["x"]})
    columns.clear(0)
    for where in ({"a": 1}, {"b": "x"}, {"c": True}, {"d": {"$contains": "x"}}):
        filter = read_filter(where)
        assert filter is not None
        assert not np.any(columns.mask(filter))


def test_within_is_exact_to_the_segment() -> None:
    columns = Columns()
    spaces = [("acme",), ("acme-corp",), ("acme", "ada"), ("acme", "ada", "x"), ("ac", "me"), ('acme","ada',)]
    for slot, space in enumerate(spaces):
        columns.put(slot, {NAMESPACE: namespace_key(space)})
    assert columns.mask(Within(("acme",)))[: len(spaces)].tolist() == [True, False, True, True, False, False]
    assert columns.mask(Within(("acme", "ada")))[: len(spaces)].tolist() == [False, False, True, True, False, False]


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ([], "A filter is a dict"),
        ({"a": {"$near": 1}}, r"Unknown operator '\$near' on 'a'"),
        ({"$nor": []}, r"Cannot filter on '\$nor'"),
        ({"$and": []}, r"\$and takes a list of filters"),
        ({"$and": [{}]}, "not empty"),
        ({"a": {}}, "is empty"),
        ({"a": None}, "takes a string, number or boolean"),
        ({"a": {"$gt": "x"}}, "takes a number"),
        ({"a": {"$in": "x"}}, "takes a list"),
        ({"quadrieve:namespace": "x"}, "Cannot filter on"),
        ({"": 1}, "Cannot filter on"),
    ],
)
def test_what_is_no_filter_is_refused(where: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_filter(where)


@given(
    st.dictionaries(
        st.text(max_size=3), st.recursive(SCALARS | st.none(), lambda v: st.lists(v, max_size=2)), max_size=4
    )
)
def test_flattening_yields_only_what_chroma_takes(metadata: dict[str, Any]) -> None:
    for key, value in flatten(metadata):
        assert key
        assert not key.startswith(("$", "#", "chroma:", "quadrieve:"))
        assert value is not None
        assert value != []
