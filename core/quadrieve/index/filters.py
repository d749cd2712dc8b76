"""The `where` of a search: read once, checked, and put into the form that a store understands.

A filter is a dict as Chroma takes it, and freer: several keys mean all of them, several operators on a key
mean all of them, and nested metadata is reached by `"a.b"`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from ..errors import InputError
from .records import NAMESPACE, RESERVED, Namespace, Scalar, level_key, namespace_key

Operator = Literal["$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains"]
OPERATORS = ("$eq", "$ne", "$gt", "$gte", "$lt", "$lte", "$in", "$nin", "$contains", "$not_contains")


@dataclass(frozen=True)
class Comparison:
    """One key held against a value. A record without the key matches only `$ne`, `$nin` and `$not_contains`."""

    key: str
    operator: Operator
    value: Scalar | tuple[Scalar, ...]


@dataclass(frozen=True)
class Combination:
    """Several filters, all or any of which must match."""

    operator: Literal["$and", "$or"]
    parts: tuple[Filter, ...]


@dataclass(frozen=True)
class Within:
    """A namespace and all below it, level by level: `("acme",)` never holds `("acme-corp",)`."""

    prefix: Namespace


Filter: TypeAlias = "Comparison | Combination | Within"


def read_filter(where: Mapping[str, Any] | None) -> Filter | None:
    """Read a user's filter.

    Example:
        >>> read_filter({"lang": "en", "year": {"$gte": 2020}})  # doctest: +ELLIPSIS
        Combination(operator='$and', parts=(Comparison(key='lang', operator='$eq', value='en'), ...

    Raises:
        InputError: If it is no dict, or an operator or a value is unknown.
    """
    if where is None or where == {}:
        return None
    if not isinstance(where, Mapping):
        raise InputError(f"A filter is a dict such as {{'lang': 'en'}}, got {type(where).__name__}.")
    return all_of(*(_read_entry(key, value) for key, value in where.items()))


def all_of(*filters: Filter | None) -> Filter | None:
    """The filter that matches where all of these do; None matches everything."""
    parts = tuple(part for part in filters if part is not None)
    return parts[0] if len(parts) == 1 else Combination("$and", parts) if parts else None


def own(name: str, operator: Operator, value: Scalar | tuple[Scalar, ...]) -> Comparison:
    """A filter on one of a role's own fields, which a user's filter cannot name."""
    return Comparison(f"{RESERVED}{name}", operator, value)


def in_namespace(namespace: Namespace | None, within: Namespace | None = None) -> Filter | None:
    """The filter for one namespace, or for one and all below it; `()` is above all."""
    exact = None if namespace is None else Comparison(NAMESPACE, "$eq", namespace_key(namespace))
    return all_of(exact, Within(within) if within else None)


def for_chroma(filter: Filter | None) -> dict[str, Any] | None:
    """The filter as Chroma's `where`: one operator a dict, and at least two parts behind `$and` and `$or`."""
    if filter is None:
        return None
    if isinstance(filter, Within):
        key = namespace_key(filter.prefix)
        return {"$or": [{NAMESPACE: {"$eq": key}}, {level_key(len(filter.prefix)): {"$eq": key}}]}
    if isinstance(filter, Comparison):
        value = list(filter.value) if isinstance(filter.value, tuple) else filter.value
        return {filter.key: {filter.operator: value}}
    if len(filter.parts) == 1:
        return for_chroma(filter.parts[0])
    return {filter.operator: [for_chroma(part) for part in filter.parts]}


def _read_entry(key: object, value: Any) -> Filter:
    if key in ("$and", "$or"):
        if not isinstance(value, list | tuple) or not value:
            raise InputError(f"{key} takes a list of filters, got {value!r}.")
        parts = tuple(part for part in map(read_filter, value) if part is not None)
        if len(parts) != len(value):
            raise InputError(f"{key} takes filters that are not empty, got {value!r}.")
        return Combination("$and" if key == "$and" else "$or", parts)
    if not isinstance(key, str) or not key or key.startswith(("$", "#", "chroma:", RESERVED)):
        raise InputError(f"Cannot filter on {key!r}; expected a metadata key, '$and' or '$or'.")
    operations = value if isinstance(value, Mapping) else {"$eq": value}
    if not operations:
        raise InputError(f"The filter on {key!r} is empty; expected a value or an operator such as {{'$gte': 1}}.")
    comparisons = [_read_comparison(key, operator, operand) for operator, operand in operations.items()]
    return comparisons[0] if len(comparisons) == 1 else Combination("$and", tuple(comparisons))


def _read_comparison(key: str, operator: Any, value: Any) -> Comparison:
    if operator not in OPERATORS:
        raise InputError(
            f"Unknown operator {operator!r} on {key!r}; expected one of {', '.join(OPERATORS)} "
            "(reach nested metadata by 'a.b')."
        )
    if operator in ("$in", "$nin"):
        if not isinstance(value, list | tuple | set | frozenset) or not value:
            raise InputError(f"{operator} on {key!r} takes a list of values, got {value!r}.")
        if any(not isinstance(part, str | bool | int | float) for part in value):
            raise InputError(f"{operator} on {key!r} takes strings, numbers and booleans, got {value!r}.")
        return Comparison(key, operator, tuple(value))
    if operator in ("$gt", "$gte", "$lt", "$lte") and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{operator} on {key!r} takes a number, got {value!r}.")
    if not isinstance(value, str | bool | int | float):
        raise InputError(f"{operator} on {key!r} takes a string, number or boolean, got {value!r}.")
    return Comparison(key, operator, value)
