"""What a store of records answers, whatever it is made of."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ..embedder import Vectors, ViewLike
from .filters import Filter
from .fusion import Fusion
from .records import Namespace, Record

Mode = Literal["hybrid", "dense", "lexical"]

#: Makes the vectors of records, `[n, dim]`.
Embed = Callable[[Sequence[Record]], Vectors]


@dataclass(frozen=True)
class Query:
    """What is looked for.

    Attributes:
        vector: Unit vector `[dim]`.
        view: What made it.
        text: The words, or None where only a vector is known.
        n: How many candidates at most.
        mode: How to rank.
        fusion: How much words count in the mode `hybrid`.
        filter: What may be found, the namespace included; None is everything.
        namespace: The only namespace that the filter lets through, if there is one.
        ids: Only these; None is any.
        min_score: Only candidates with at least this cosine.
    """

    vector: Vectors
    view: ViewLike
    text: str | None
    n: int
    mode: Mode
    fusion: Fusion
    filter: Filter | None = None
    namespace: Namespace | None = None
    ids: Sequence[str] | None = None
    min_score: float | None = None


@dataclass(frozen=True)
class Candidate:
    """A record that was found.

    Attributes:
        record: The record.
        vector: Its vector `[dim]`.
        cosine: Its cosine with the query, in [-1, 1].
        relevance: What it was ranked by; comparable within one search.
        why: Ranker and rank, from 1.
    """

    record: Record
    vector: Vectors
    cosine: float
    relevance: float
    why: Mapping[str, Any]


class RecordStore(Protocol):
    """Records that can be written, found and taken away."""

    @property
    def batch_size(self) -> int:
        """Records that may be written at a time."""
        ...

    def check(self, view: ViewLike) -> None:
        """Refuse another embedder than the records were written with."""
        ...

    def put(self, records: Sequence[Record], hashes: Mapping[str, str], vectors: Vectors, view: ViewLike) -> None:
        """Write records, each as a whole; refuse vectors of another view than the one there is."""
        ...

    @property
    def version(self) -> int | None:
        """Goes up with every change; None where others may change the records as well."""
        ...

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all records, or of those that match."""
        ...

    def hashes(self, ids: Sequence[str]) -> dict[str, str]:
        """Content hash by id, of those that are there."""
        ...

    def get(
        self, ids: Sequence[str] | None = None, filter: Filter | None = None, *, vectors: bool = False
    ) -> list[Record]:
        """Records by id, by filter, or all."""
        ...

    def delete(self, ids: Sequence[str]) -> None:
        """Take records away; ids that are not there are no error."""
        ...

    def count(self, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        ...

    def rank(self, query: Query) -> list[Candidate]:
        """The candidates for a query, best first."""
        ...

    def rebuild(self, view: ViewLike, embed: Embed | None, progress: Callable[[int, int], None]) -> bool:
        """Copy what is alive to a new place, with new vectors if `embed` makes them, and let it take over.

        Returns whether nothing else can be left in the bytes of the new place.
        """
        ...

    def close(self) -> None:
        """Let go."""
        ...
