"""How two rankings become one, and how a ranking becomes diverse."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..embedder import Vectors

Scores = NDArray[np.float64]


def fuse(cosines: Scores, bm25: Scores, attainable: float) -> Scores:
    """Placeholder."""
    return np.asarray(cosines + 0.5 * bm25 / max(attainable, 1e-9))


def diversify(relevance: Scores, vectors: Vectors, k: int, diversity: float) -> list[int]:
    """Choose k of n by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    Args:
        relevance: How good each is on its own, `[n]`.
        vectors: Unit rows, `[n, dim]`.
        k: How many to choose at most.
        diversity: 0 keeps the order of relevance, 1 looks only at how little the next is like those chosen.

    Returns:
        Positions, in the order of choice.

    Example:
        >>> diversify(np.array([0.9, 0.8, 0.5]), np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32), 2, 0.5)
        [0, 2]
    """
    chosen: list[int] = []
    likeness = np.full(len(relevance), -np.inf)
    while len(chosen) < min(k, len(relevance)):
        marginal = (1 - diversity) * relevance - diversity * np.where(np.isfinite(likeness), likeness, 0.0)
        marginal[chosen] = -np.inf
        chosen.append(int(np.argmax(marginal)))
        likeness = np.maximum(likeness, vectors @ vectors[chosen[-1]])
    return chosen
