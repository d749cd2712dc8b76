"""Whether a record's metadata matches LlamaIndex's filters, decided in Python.

As LlamaIndex's own in-memory store decides it, with four differences: filters nest, True is not 1, an empty list is
no value (an index keeps none), and what cannot be compared (a word and a number, a missing value) does not match
instead of raising.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from quadrieve.index.records import flatten

_WITHOUT_KEY = (FilterOperator.NE, FilterOperator.NIN, FilterOperator.IS_EMPTY)


def _are_same(a: Any, b: Any) -> bool:
    """Equal, and not a truth value on one side and a number on the other."""
    return isinstance(a, bool) == isinstance(b, bool) and bool(a == b)


def _are_comparable(a: Any, b: Any) -> bool:
    numbers = all(isinstance(each, int | float) and not isinstance(each, bool) for each in (a, b))
    return numbers or (isinstance(a, str) and isinstance(b, str))


def _holds_value(values: Any, wanted: Any) -> bool:
    return isinstance(values, list) and any(_are_same(each, wanted) for each in values)


#: Whether a value that is there matches what is wanted.
_TESTS: dict[FilterOperator, Callable[[Any, Any], bool]] = {
    FilterOperator.EQ: _are_same,
    FilterOperator.NE: lambda value, wanted: not _are_same(value, wanted),
    FilterOperator.GT: lambda value, wanted: _are_comparable(value, wanted) and value > wanted,
    FilterOperator.GTE: lambda value, wanted: _are_comparable(value, wanted) and value >= wanted,
    FilterOperator.LT: lambda value, wanted: _are_comparable(value, wanted) and value < wanted,
    FilterOperator.LTE: lambda value, wanted: _are_comparable(value, wanted) and value <= wanted,
    FilterOperator.IN: lambda value, wanted: _holds_value(wanted, value),
    FilterOperator.NIN: lambda value, wanted: not _holds_value(wanted, value),
    FilterOperator.CONTAINS: _holds_value,
    FilterOperator.ANY: lambda value, wanted: any(_holds_value(value, each) for each in wanted),
    FilterOperator.ALL: lambda value, wanted: all(_holds_value(value, each) for each in wanted),
    FilterOperator.TEXT_MATCH: lambda value, wanted: isinstance(value, str) and wanted in value,
    FilterOperator.TEXT_MATCH_INSENSITIVE: (
        lambda value, wanted: isinstance(value, str) and wanted.casefold() in value.casefold()
    ),
    FilterOperator.IS_EMPTY: lambda value, _: bool(value == ""),
}


def matches(filters: MetadataFilters, metadata: Mapping[str, Any]) -> bool:
    """Whether nested metadata matches; its parts are named as `"a.b"`.

    Example:
        >>> wanted = MetadataFilter(key="book.title", value="bee", operator=FilterOperator.TEXT_MATCH_INSENSITIVE)
        >>> matches(MetadataFilters(filters=[wanted]), {"book": {"title": "The Beekeeper"}})
        True
    """
    return _holds(filters, dict(flatten(metadata)))


def _holds(part: MetadataFilter | MetadataFilters, flat: Mapping[str, Any]) -> bool:
    """Whether flat metadata matches, as LlamaIndex's own in-memory store has it, nesting included."""
    if isinstance(part, MetadataFilters):
        results = [_holds(each, flat) for each in part.filters]
        if part.condition is FilterCondition.OR:
            return any(results) or not results
        return not any(results) if part.condition is FilterCondition.NOT else all(results)
    value = flat.get(part.key)
    return part.operator in _WITHOUT_KEY if value is None else _TESTS[part.operator](value, part.value)
