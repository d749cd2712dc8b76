"""What an index holds and what a search returns, and how nested JSON is kept in Chroma's flat metadata."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from ..embedder import Vectors, check_text
from ..errors import InputError

Scalar: TypeAlias = "str | int | float | bool"
Flat: TypeAlias = "dict[str, Scalar | list[Scalar]]"
Namespace: TypeAlias = "tuple[str, ...]"

#: Metadata keys that begin so are the index's own.
RESERVED = "quadrieve:"
RECORD = f"{RESERVED}record"
NAMESPACE = f"{RESERVED}namespace"


@dataclass(frozen=True)
class Record:
    """One stored text.

    Attributes:
        id: Unique within the index; `content_id` makes one of the content.
        text: What is encoded, and what a language model gets to read.
        metadata: The user's nested JSON; scalars in it can be filtered on, nested ones as `"a.b"`.
        payload: The role's own nested JSON, not filtered on.
        fields: The role's own scalars, filtered on by the role alone.
        namespace: The tenant, one string a level; no filter reaches over it.
        vector: `[dim]`, where it is not simply the text's.
    """

    id: str
    text: str
    metadata: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = None
    fields: Mapping[str, Scalar] = field(default_factory=dict)
    namespace: Namespace = ()
    vector: Vectors | None = field(default=None, compare=False)


@dataclass(frozen=True)
class Hit:
    """One found text.

    Attributes:
        id: The record's id.
        text: The record's text.
        score: Cosine similarity with the query in [-1, 1], whatever ranked it.
        metadata: The record's metadata as it was given.
        why: Which ranker found it at which rank, from 1.
        payload: The role's own.

    Example:
        >>> Hit("a", "Bees make honey.", 0.5, why={"dense": 1}).score
        0.5
    """

    id: str
    text: str
    score: float
    metadata: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, Any] = field(default_factory=dict)
    payload: Any = field(default=None, repr=False)


def content_id(*parts: Any) -> str:
    """An id that is the same for the same content, in every process.

    Example:
        >>> content_id("a", {"b": 1}) == content_id("a", {"b": 1}) != content_id("b", {"a": 1})
        True
    """
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()[:32]


def canonical_json(value: Any, name: str = "The metadata") -> str:
    """The one JSON text of a value: sorted keys, no spaces.

    Raises:
        InputError: If the value is not JSON: NaN, a set, a key that is no string, half a surrogate pair.
    """
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{name} must be JSON (strings, finite numbers, booleans, None, lists, dicts): {error}."
        ) from None
    return check_text(text, name)


def check_metadata(metadata: object, name: str = "The metadata") -> dict[str, Any]:
    """The metadata as a plain dict of JSON.

    Raises:
        InputError: If it is no mapping from strings, or holds what JSON cannot.
    """
    if metadata is None:
        return {}
    if not isinstance(metadata, Mapping) or any(not isinstance(key, str) for key in metadata):
        raise InputError(f"{name} is {type(metadata).__name__}, expected a dict with strings as keys.")
    result: dict[str, Any] = json.loads(canonical_json(dict(metadata), name))
    return result


def check_namespace(namespace: object) -> Namespace:
    """A namespace as a tuple of strings; one string is a namespace of one level.

    Raises:
        InputError: If it is empty, or holds anything but non-empty strings.
    """
    levels = (namespace,) if isinstance(namespace, str) else namespace
    if (
        not isinstance(levels, tuple | list)
        or not levels
        or not all(isinstance(level, str) and level for level in levels)
    ):
        raise InputError(f"A namespace is a non-empty string or a tuple of such, got {namespace!r}.")
    return tuple(check_text(level, "A namespace") for level in levels)


def namespace_key(namespace: Namespace) -> str:
    """The namespace as one string that no other namespace has, whatever characters are in it."""
    return canonical_json(namespace, "A namespace")


def flatten(metadata: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Scalar | list[Scalar]]]:
    """The parts of nested metadata that can be filtered on: scalars, and lists of strings or of numbers.

    Example:
        >>> dict(flatten({"a": {"b": 1}, "tags": ["x", "y"], "none": None, "mixed": [1, "x"]}))
        {'a.b': 1, 'tags': ['x', 'y']}
    """
    for key, value in metadata.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{path}.")
        elif path and not path.startswith(("$", "#", "chroma:", RESERVED)) and _is_filterable(value):
            yield path, value


def _is_filterable(value: object) -> bool:
    one_type = isinstance(value, list) and len({type(part) for part in value}) == 1
    return all(map(_is_scalar, value)) if isinstance(value, list) and one_type else _is_scalar(value)


def _is_scalar(value: object) -> bool:
    return isinstance(value, str | bool) or (isinstance(value, int | float) and abs(value) < 2**63)


def _is_kept(value: object) -> bool:
    """Whether Chroma gives back what it was given, type and all."""
    return "\x00" not in value if isinstance(value, str) else _is_scalar(value)


def content_hash(record: Record) -> str:
    """Changes with anything that is stored of a record but its vector."""
    return content_id(record.namespace, record.text, record.metadata, record.payload, dict(record.fields))


def to_chroma(record: Record) -> Flat:
    """A record's Chroma metadata: the flat parts to filter on, and its whole where it is more.

    Every key costs Chroma time when it is written, and a list eight times as much, so nothing is said twice.
    """
    flat: Flat = dict(flatten(record.metadata))
    whole = record.payload is None and flat.keys() == record.metadata.keys() and all(map(_is_kept, flat.values()))
    flat |= {f"{RESERVED}{key}": value for key, value in record.fields.items()}
    flat |= above(record.namespace)
    flat[NAMESPACE] = namespace_key(record.namespace)
    if not whole:
        flat[RECORD] = canonical_json([record.metadata, record.payload])
    return flat


def above(namespace: Namespace) -> dict[str, Scalar]:
    """The namespaces that hold a namespace, by the key of their level, which is how deep they lie.

    Example:
        >>> above(("acme", "ada"))
        {'quadrieve:within:1': '["acme"]'}
    """
    return {level_key(level): namespace_key(namespace[:level]) for level in range(1, len(namespace))}


def level_key(level: int) -> str:
    """The metadata key that names the namespace so many levels deep that a record's own lies in."""
    return f"{RESERVED}within:{level}"


def from_chroma(id: str, text: str, flat: Mapping[str, Any], vector: Sequence[float] | Vectors | None = None) -> Record:
    """The record that `to_chroma` wrote."""
    import numpy as np

    if RECORD in flat:
        metadata, payload = json.loads(flat[RECORD])
    else:
        metadata, payload = {key: flat[key] for key in sorted(flat) if not key.startswith(RESERVED)}, None
    namespace: Namespace = tuple(json.loads(flat[NAMESPACE]))
    own = {RECORD, NAMESPACE, *above(namespace)}
    fields = {key[len(RESERVED) :]: value for key, value in flat.items() if key.startswith(RESERVED) and key not in own}
    row = None if vector is None else np.asarray(vector, dtype=np.float32)
    return Record(id, text, metadata, payload, fields, namespace, row)


def cosine(distance: float) -> float:
    """Chroma's cosine distance as cosine similarity, kept within [-1, 1]."""
    return 1.0 - distance if math.isfinite(distance) and 0 <= distance <= 2 else max(-1.0, min(1.0, 1.0 - distance))
