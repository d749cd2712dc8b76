"""The metadata of an index by key, in memory, so that a filter takes the same short time whatever it lets through."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .filters import Comparison, Filter, Within
from .records import NAMESPACE, Scalar

Mask = NDArray[np.bool_]

_ORDER: dict[str, Callable[[Any, Any], Mask]] = {
    "$gt": np.greater,
    "$gte": np.greater_equal,
    "$lt": np.less,
    "$lte": np.less_equal,
}


class Columns:
    """Flat metadata by slot."""

    def __init__(self) -> None:
        self._capacity = 0
        self._columns: dict[str, _Column] = {}

    def put(self, slot: int, flat: Mapping[str, Scalar | list[Scalar]]) -> None:
        """Set what a slot holds; it must hold nothing yet."""
        self.reserve(slot + 1)
        for key, value in flat.items():
            column = self._columns.get(key)
            if column is None:
                column = self._columns[key] = _Column(self._capacity)
            column.put(slot, value)

    def clear(self, slot: int) -> None:
        """Empty a slot."""
        for column in self._columns.values():
            column.clear(slot)

    def reserve(self, capacity: int) -> None:
        """Make room for slots below `capacity`."""
        if capacity > self._capacity:
            self._capacity = max(capacity, self._capacity * 3 // 2, 1024)
            for column in self._columns.values():
                column.reserve(self._capacity)

    def mask(self, filter: Filter) -> Mask:
        """Which slots match, `[capacity]`; an empty slot matches what a record without the key does."""
        if isinstance(filter, Within):
            keys = [
                key for key in self.values(NAMESPACE) if tuple(json.loads(key))[: len(filter.prefix)] == filter.prefix
            ]
            return self.mask(Comparison(NAMESPACE, "$in", tuple(keys)))
        if not isinstance(filter, Comparison):
            combine = np.logical_and if filter.operator == "$and" else np.logical_or
            masks = [self.mask(part) for part in filter.parts]
            matched: Mask = combine.reduce(masks)
            return matched
        if filter.operator in ("$ne", "$nin", "$not_contains"):
            opposite: Any = {"$ne": "$eq", "$nin": "$in", "$not_contains": "$contains"}[filter.operator]
            return ~self.mask(Comparison(filter.key, opposite, filter.value))
        column = self._columns.get(filter.key)
        if column is None:
            return np.zeros(self._capacity, dtype=bool)
        return column.mask(filter)

    def values(self, key: str) -> set[str]:
        """The strings that some record has under a key."""
        column = self._columns.get(key)
        return set() if column is None else column.strings()


class _Column:
    """One key: a number, a string's code and a boolean a slot, and lists by what they hold."""

    def __init__(self, capacity: int) -> None:
        self._numbers = np.full(capacity, np.nan)
        self._codes = np.full(capacity, -1, dtype=np.int32)
        self._booleans = np.full(capacity, -1, dtype=np.int8)
        self._code_of: dict[str, int] = {}
        self._lists: dict[int, list[Scalar]] = {}
        self._holders: defaultdict[tuple[type, Scalar], set[int]] = defaultdict(set)

    def reserve(self, capacity: int) -> None:
        missing = capacity - len(self._numbers)
        self._numbers = np.concatenate([self._numbers, np.full(missing, np.nan)])
        self._codes = np.concatenate([self._codes, np.full(missing, -1, dtype=np.int32)])
        self._booleans = np.concatenate([self._booleans, np.full(missing, -1, dtype=np.int8)])

    def put(self, slot: int, value: Scalar | list[Scalar]) -> None:
        if isinstance(value, list):
            self._lists[slot] = value
            for part in value:
                self._holders[_typed(part)].add(slot)
        elif isinstance(value, bool):
            self._booleans[slot] = value
        elif isinstance(value, str):
            self._codes[slot] = self._code_of.setdefault(value, len(self._code_of))
        else:
            self._numbers[slot] = value

    def clear(self, slot: int) -> None:
        self._numbers[slot] = np.nan
        self._codes[slot] = self._booleans[slot] = -1
        for part in self._lists.pop(slot, ()):
            self._holders[_typed(part)].discard(slot)

    def strings(self) -> set[str]:
        used = set(np.unique(self._codes).tolist())
        return {text for text, code in self._code_of.items() if code in used}

    def mask(self, comparison: Comparison) -> Mask:
        operator, value = comparison.operator, comparison.value
        if operator == "$in":
            assert isinstance(value, tuple)
            return self._among(value)
        assert not isinstance(value, tuple)
        if operator == "$eq":
            return self._equal(value)
        if operator == "$contains":
            mask = np.zeros(len(self._numbers), dtype=bool)
            mask[list(self._holders.get(_typed(value), ()))] = True
            return mask
        return _ORDER[operator](self._numbers, value)

    def _equal(self, value: Scalar) -> Mask:
        equal: Mask
        if isinstance(value, bool):
            equal = self._booleans == value
        elif isinstance(value, str):
            equal = self._codes == self._code_of.get(value, -2)
        else:
            equal = self._numbers == value
        return equal

    def _among(self, values: tuple[Scalar, ...]) -> Mask:
        strings = [self._code_of[value] for value in values if isinstance(value, str) and value in self._code_of]
        others = [value for value in values if not isinstance(value, str)]
        mask: Mask = np.isin(self._codes, strings)
        for value in others:
            mask |= self._equal(value)
        return mask


def _typed(value: Scalar) -> tuple[type, Scalar]:
    """Booleans and numbers apart, as `True == 1`; whole and broken numbers together."""
    return (
        (float, float(value))
        if isinstance(value, int | float) and not isinstance(value, bool)
        else (type(value), value)
    )
