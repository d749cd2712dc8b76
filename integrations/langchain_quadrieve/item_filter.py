"""LangGraph's filter on a store's items: nested values, compared as JSON."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any

from quadrieve import InputError

_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


def matches(value: Any, wanted: Any) -> bool:
    """Whether a value is as wanted.

    A dict of operators (`$eq $ne $gt $gte $lt $lte`) compares, any other dict names the keys that must match in turn,
    a list must match entry by entry, and anything else must be equal. What is missing counts as None; order with
    None, or between things that have none, is false.

    Raises:
        InputError: If an operator is unknown.

    Example:
        >>> item = {"kind": "note", "meta": {"stars": 4}, "read": None}
        >>> matches(item, {"kind": "note", "meta": {"stars": {"$gte": 4}}}), matches(item, {"read": {"$gt": 1}})
        (True, False)
    """
    if isinstance(wanted, Mapping):
        if any(isinstance(key, str) and key.startswith("$") for key in wanted):
            return all(_compares(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, Mapping) and all(matches(value.get(key), part) for key, part in wanted.items())
    if isinstance(wanted, list | tuple):
        return (
            isinstance(value, list | tuple)
            and len(value) == len(wanted)
            and all(matches(one, other) for one, other in zip(value, wanted, strict=True))
        )
    return bool(value == wanted)


def _compares(value: Any, name: str, operand: Any) -> bool:
    if name == "$eq":
        return bool(value == operand)
    if name == "$ne":
        return bool(value != operand)
    if name not in _ORDERS:
        raise InputError(f"Unknown operator {name!r}; expected one of $eq, $ne, {', '.join(_ORDERS)}.")
    left, right = _number(value), _number(operand)
    if left is not None and right is not None:
        return _ORDERS[name](left, right)
    if isinstance(value, str) and isinstance(operand, str):
        return _ORDERS[name](value, operand)  # dates in ISO 8601 among others
    return False


def _number(value: Any) -> float | None:
    """The number that a value is or, as LangGraph's own stores have it, that a string spells."""
    if not isinstance(value, str | int | float):
        return None
    try:
        return float(value)
    except ValueError:
        return None
