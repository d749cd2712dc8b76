"""Dev sets: what each role is measured on while it is trained."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from quadrieve.errors import InputError

from .rows import Collection, Row

if TYPE_CHECKING:
    from numpy.typing import NDArray

#: Takes texts and the side they are on, `query` or `key`; returns unit rows.
Encode = Callable[[Sequence[str], str], "NDArray[np.float32]"]


@dataclass(frozen=True)
class DevSet:
    """Queries, the candidates that each may find, and those it should.

    Attributes:
        task: Name of the task.
        queries: Texts.
        keys: Texts of all candidates.
        visible: For each query, indices of the candidates it searches; None for all.
        positives: For each query, indices of its positives.
        rewarded: Labelled rows, on which reward and answer quality are followed.
    """

    task: str
    queries: tuple[str, ...]
    keys: tuple[str, ...]
    visible: tuple[tuple[int, ...] | None, ...]
    positives: tuple[tuple[int, ...], ...]
    rewarded: tuple[Row, ...] = field(default=())

    @classmethod
    def from_collection(
        cls,
        collection: Collection,
        task: str,
        *,
        split: str = "dev",
        queries: int | None = None,
        keys: int | None = None,
        seed: int = 13,
        rewarded: Sequence[Row] = (),
    ) -> DevSet:
        """The queries of a split that have positives, over the corpus or a part of it that holds all positives.

        Args:
            collection: Corpus and queries.
            task: Name of the task.
            split: Which queries.
            queries: That many, drawn at random.
            keys: Candidates: all positives, filled up at random, where there are conversations from those asked in.
            seed: Of the draws.
            rewarded: Labelled rows.

        Raises:
            InputError: If no query of the split has positives.
        """
        draw = random.Random(f"{seed} dev")  # noqa: S311 - a seeded draw
        places = collection.places
        chosen = [query for query in collection.split(split) if query.positives]
        if not chosen:
            raise InputError(f"{collection.name} has no {split!r} queries with positives to measure {task!r} on.")
        if queries is not None and queries < len(chosen):
            chosen = [chosen[i] for i in sorted(draw.sample(range(len(chosen)), queries))]
        index = {identity: i for i, identity in enumerate(collection.ids)}
        needed = {index[identity] for query in chosen for identity in query.positives}
        pool = list(range(len(collection.ids)))
        if places is not None:
            conversations = {query.conversation for query in chosen}
            pool = [i for i in pool if places[i][0] in conversations]
        kept = pool
        if keys is not None and keys < len(pool):
            others = [i for i in pool if i not in needed]
            kept = sorted(needed | set(draw.sample(others, max(0, min(len(others), keys - len(needed))))))
        column = {i: number for number, i in enumerate(kept)}
        visible: list[tuple[int, ...] | None] = []
        for query in chosen:
            if places is None:
                visible.append(None)
                continue
            mine = [i for i in kept if places[i][0] == query.conversation]
            visible.append(tuple(column[i] for i in mine if query.turn is None or places[i][1] < query.turn))
        return cls(
            task,
            tuple(query.text for query in chosen),
            tuple(collection.texts[i] for i in kept),
            tuple(visible),
            tuple(tuple(column[index[identity]] for identity in query.positives) for query in chosen),
            tuple(rewarded),
        )

    def measure(self, encode: Encode, k: int = 10) -> DevFigures:
        """Encode both sides and measure."""
        queries, keys = encode(self.queries, "query"), encode(self.keys, "key")
        gains = [
            ndcg(queries[i] @ keys.T, self.positives[i], k, visible=self.visible[i]) for i in range(len(self.queries))
        ]
        rewards, qualities = [], []
        for row in self.rewarded:
            vectors = encode(row.candidates, "key")
            best = int(np.argmax(vectors @ encode([row.query], "query")[0]))
            if row.rewards:
                rewards.append(row.rewards[best])
            if row.qualities:
                qualities.append(row.qualities[best])
        return DevFigures(
            ndcg=float(np.mean(gains)),
            queries=queries,
            keys=keys,
            reward=float(np.mean(rewards)) if rewards else None,
            quality=float(np.mean(qualities)) if qualities else None,
        )


@dataclass(frozen=True)
class DevFigures:
    """NDCG, the vectors of both sides, and reward and answer quality of the best candidate of labelled rows."""

    ndcg: float
    queries: NDArray[np.float32]
    keys: NDArray[np.float32]
    reward: float | None = None
    quality: float | None = None


def ndcg(
    scores: NDArray[np.float32], positives: Sequence[int], k: int, *, visible: Sequence[int] | None = None
) -> float:
    """NDCG at `k` with binary relevance: 1 where all positives come first. A tie counts against the positive.

    Example:
        >>> import numpy as np
        >>> ndcg(np.array([0.9, 0.1, 0.5]), [0], k=2), ndcg(np.array([0.9, 0.1, 0.5]), [1], k=2)
        (1.0, 0.0)
    """
    columns = np.arange(len(scores)) if visible is None else np.asarray(visible, dtype=np.int64)
    relevant = np.isin(columns, positives)
    if not relevant.any():
        return 0.0
    order = np.lexsort((relevant, -scores[columns]))[:k]
    gain = sum(1 / math.log2(place + 2) for place, i in enumerate(order) if relevant[i])
    best = sum(1 / math.log2(place + 2) for place in range(min(k, int(relevant.sum()))))
    return gain / best
