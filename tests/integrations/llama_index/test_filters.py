"""MetadataFilters: every operator, nested at will, means the same in the index as in LlamaIndex's own store."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index_quadrieve import QuadrieveRetriever, QuadrieveVectorStore
from llama_index_quadrieve.filters import select
from llama_index_quadrieve.matching import matches
from quadrieve import Embedder, InputError, KnowledgeBase

ORDERS = (FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE)
NUMBERS = [-1, 0, 1, 2, 1.0, 1.5, 2.5]
WORDS = ["a", "b", "ab", "Ab", ""]
LISTS: list[Any] = [[], ["a", "b"], ["ab"], [1, 2], [1.0, 2.5]]
VALUES = [*NUMBERS, *WORDS, True, False, None, *LISTS, {"c": 1}, {"c": "a"}]
ROWS = [{"x": x, **({} if y == "missing" else {"y": y})} for x in VALUES for y in ("missing", 1, "a", ["a"], [2])]


@pytest.fixture(scope="module")
def rows(embedder: Embedder) -> KnowledgeBase:
    kb = KnowledgeBase.open(None, embedder=embedder)
    kb.add(["one text for all"] * len(ROWS), ids=[str(i) for i in range(len(ROWS))], metadatas=ROWS)
    return kb


def leaves() -> st.SearchStrategy[MetadataFilter]:
    keys = st.sampled_from(["x", "y", "x.c", "nowhere"])
    number, word = st.sampled_from(NUMBERS), st.sampled_from(WORDS)
    several = st.lists(word, max_size=3) | st.lists(st.sampled_from([0, 1, 2]), max_size=3) | st.just([1.0, 2.5])
    return st.one_of(
        st.builds(
            MetadataFilter,
            key=keys,
            operator=st.sampled_from([FilterOperator.EQ, FilterOperator.NE]),
            value=number | word | several | st.none(),
        ),
        st.builds(MetadataFilter, key=keys, operator=st.sampled_from(ORDERS), value=number | word),
        st.builds(
            MetadataFilter,
            key=keys,
            operator=st.sampled_from([FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL]),
            value=several,
        ),
        st.builds(MetadataFilter, key=keys, operator=st.just(FilterOperator.CONTAINS), value=number | word),
        st.builds(
            MetadataFilter,
            key=keys,
            operator=st.sampled_from([FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE]),
            value=word,
        ),
        st.builds(MetadataFilter, key=keys, operator=st.just(FilterOperator.IS_EMPTY), value=st.none()),
    )


def nested() -> st.SearchStrategy[MetadataFilters]:
    conditions = st.sampled_from([*FilterCondition, None])
    some = st.recursive(
        leaves(),
        lambda inner: st.builds(MetadataFilters, filters=st.lists(inner, max_size=3), condition=conditions),
        max_leaves=6,
    )
    return st.builds(MetadataFilters, filters=st.lists(some, max_size=3), condition=conditions)


@given(filters=nested())
@settings(max_examples=150, deadline=None)
def test_the_index_finds_what_the_filters_mean(rows: KnowledgeBase, filters: MetadataFilters) -> None:
    found = {node.node_id for node in QuadrieveVectorStore(rows).get_nodes(filters=filters)}
    assert found == {str(i) for i, row in enumerate(ROWS) if matches(filters, row)}


@given(leaf=leaves(), condition=st.sampled_from(FilterCondition), row=st.sampled_from(ROWS))
@settings(max_examples=300, deadline=None)
def test_they_mean_what_llama_index_means(
    leaf: MetadataFilter, condition: FilterCondition, row: dict[str, Any]
) -> None:
    """Where its own evaluation does not raise, and True is not 1, text no list, 'x.c' two keys, and [] no value."""
    filters = MetadataFilters(filters=[leaf], condition=condition)
    flat = {**row, "x": None, "x.c": row["x"]["c"]} if isinstance(row["x"], dict) else row
    value = flat.get(leaf.key)
    in_list = leaf.operator in (FilterOperator.CONTAINS, FilterOperator.ANY, FilterOperator.ALL)
    if isinstance(value, bool) or value == [] or (in_list and isinstance(value, str)):
        return
    try:
        expected = build_metadata_filter_fn(lambda _: flat, filters)("any")
    except TypeError:
        return
    assert matches(filters, row) == expected


def test_every_operator_is_known(rows: KnowledgeBase) -> None:
    values = {FilterOperator.IS_EMPTY: None, FilterOperator.TEXT_MATCH: "a", FilterOperator.TEXT_MATCH_INSENSITIVE: "a"}
    lists = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
    for operator in FilterOperator:
        value = ["a"] if operator in lists else values.get(operator, 1)
        leaf = MetadataFilter(key="x", operator=operator, value=value)
        assert matches(MetadataFilters(filters=[leaf]), {"x": 1}) in (True, False)


def test_what_the_index_says_itself_is_left_to_it() -> None:
    """So that a filter over many records costs no pass over all of them."""
    for operator, value in [("==", 1), ("!=", "a"), (">=", 1.5), ("in", ["a"]), ("nin", [1, 2]), ("contains", "a")]:
        leaf = MetadataFilter(key="x", operator=FilterOperator(operator), value=value)
        assert select(MetadataFilters(filters=[leaf])).test is None
    mixed = MetadataFilters(
        filters=[
            MetadataFilter(key="x", value=1),
            MetadataFilter(key="y", value="a", operator=FilterOperator.TEXT_MATCH),
        ]
    )
    assert select(mixed).filter is not None
    assert select(mixed).test == MetadataFilters(filters=[mixed.filters[1]])


@pytest.mark.parametrize(
    ("operator", "value"),
    [
        (FilterOperator.IN, "a"),
        (FilterOperator.ANY, 1),
        (FilterOperator.TEXT_MATCH, 1),
        (FilterOperator.CONTAINS, None),
    ],
)
def test_a_value_that_does_not_go_with_its_operator_is_named(operator: FilterOperator, value: Any) -> None:
    with pytest.raises(InputError, match="takes a"):
        select(MetadataFilters(filters=[MetadataFilter(key="x", operator=operator, value=value)]))


def test_a_retriever_takes_filters_of_both_kinds(kb: KnowledgeBase) -> None:
    for filters in (
        MetadataFilters(filters=[MetadataFilter(key="letters", value=4)]),
        {"letters": 4},
        MetadataFilters(filters=[MetadataFilter(key="letters", value=None, operator=FilterOperator.IS_EMPTY)]),
    ):
        found = {n.node_id for n in QuadrieveRetriever(kb, filters=filters, mode="dense").retrieve("honey")}
        empty = isinstance(filters, MetadataFilters) and filters.filters[0].operator is FilterOperator.IS_EMPTY
        assert found == (set() if empty else {"bees", "oslo", "rust", "soup", "moon"})
