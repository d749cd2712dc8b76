"""LlamaIndex's `MetadataFilters` as filters of an index.

Most of what they say is said by the index's own filters. The rest (text within text, emptiness, the order
of strings, what is *not* in an order) is decided record by record, on those that the first part leaves.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from quadrieve import Index, InputError
from quadrieve.index.filters import Combination, Filter, all_of, read_filter

from .matching import matches

#: What a caller may give: LlamaIndex's filters, or a dict as `KnowledgeBase.search` takes it.
FilterLike: TypeAlias = "MetadataFilters | Mapping[str, Any]"

_OF_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_OF_TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)

#: What the index calls an operator, and its opposite where it has one.
_NAMES: dict[FilterOperator, tuple[str, str | None]] = {
    FilterOperator.EQ: ("$eq", "$ne"),
    FilterOperator.NE: ("$ne", "$eq"),
    FilterOperator.IN: ("$in", "$nin"),
    FilterOperator.NIN: ("$nin", "$in"),
    FilterOperator.GT: ("$gt", None),  # what has no such key is not greater, and not less or equal either
    FilterOperator.GTE: ("$gte", None),
    FilterOperator.LT: ("$lt", None),
    FilterOperator.LTE: ("$lte", None),
}


@dataclass(frozen=True)
class Selection:
    """Which records a search may find: those of `filter`, and of these only those that `test` lets pass."""

    filter: Filter | None
    test: MetadataFilters | None = None

    def ids(self, index: Index, within: Sequence[str] | None = None) -> Sequence[str] | None:
        """The ids that are left where a test has to decide; `within` as it is where the filter says all."""
        if self.test is None:
            return within
        return [record.id for record in index.get(within, filter=self.filter) if matches(self.test, record.metadata)]


def select(filters: FilterLike | None, *others: Filter | None) -> Selection:
    """Read a caller's filters, all of which must hold along with `others`.

    Raises:
        InputError: If they are neither `MetadataFilters` nor a dict, or a value does not go with its operator.

    Example:
        >>> select(MetadataFilters(filters=[MetadataFilter(key="year", value=2020, operator=">=")])).filter
        Comparison(key='year', operator='$gte', value=2020)
    """
    if not isinstance(filters, MetadataFilters):
        return Selection(all_of(read_filter(filters), *others))
    conjuncts = filters.filters if filters.condition in (None, FilterCondition.AND) else [filters]
    translated = {i: _translate(part, negated=False) for i, part in enumerate(conjuncts)}
    said = all_of(*translated.values(), *others)
    left = [part for i, part in enumerate(conjuncts) if translated[i] is None]
    return Selection(said, MetadataFilters(filters=left) if left else None)


def _translate(part: MetadataFilter | MetadataFilters, negated: bool) -> Filter | None:
    """The index's filter that says the same, or None where it has none."""
    if isinstance(part, MetadataFilters):
        inner = [_translate(each, negated != (part.condition is FilterCondition.NOT)) for each in part.filters]
        either = (part.condition is FilterCondition.OR) != negated
        return _combine(inner, either)
    _check(part)
    if part.operator in _NAMES and _is_sayable(part):
        name = _NAMES[part.operator][negated]
        return None if name is None else read_filter({part.key: {name: part.value}})
    if part.operator is FilterOperator.CONTAINS:
        return _contains(part.key, part.value, negated)
    if part.operator in (FilterOperator.ANY, FilterOperator.ALL):
        either = (part.operator is FilterOperator.ANY) != negated
        return _combine([_contains(part.key, each, negated) for each in _as_list(part.value)], either)
    return None


def _is_sayable(part: MetadataFilter) -> bool:
    """Whether the index compares such values: it orders numbers only, and has no lists and no None to be equal to."""
    if part.operator in _OF_LISTS:
        return bool(part.value)
    if part.operator in (FilterOperator.EQ, FilterOperator.NE):
        return isinstance(part.value, str | int | float)
    return isinstance(part.value, int | float)


def _contains(key: str, value: Any, negated: bool) -> Filter | None:
    """A list holds the value; Chroma tells whole numbers of the two types apart there, and nowhere else."""
    forms = {int: int(value), float: float(value)}.values() if _is_whole(value) else [value]
    return _combine([read_filter({key: {"$not_contains" if negated else "$contains": f}}) for f in forms], not negated)


def _combine(parts: Sequence[Filter | None], either: bool) -> Filter | None:
    known = tuple(part for part in parts if part is not None)
    if not known or len(known) < len(parts):
        return None
    return known[0] if len(known) == 1 else Combination("$or" if either else "$and", known)


def _check(part: MetadataFilter) -> None:
    if part.operator in _OF_LISTS and not isinstance(part.value, list):
        raise InputError(f"{part.operator.value} on {part.key!r} takes a list of values, got {part.value!r}.")
    if part.operator in _OF_TEXTS and not isinstance(part.value, str):
        raise InputError(f"{part.operator.value} on {part.key!r} takes a string, got {part.value!r}.")
    if part.operator is FilterOperator.CONTAINS and not isinstance(part.value, str | int | float):
        raise InputError(f"{part.operator.value} on {part.key!r} takes a string or number, got {part.value!r}.")


def _is_whole(value: Any) -> bool:
    return isinstance(value, int | float) and float(value).is_integer()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
