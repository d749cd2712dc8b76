"""Intervals of means and of paired differences, by bootstrap over queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from quadrieve.errors import InputError


@dataclass(frozen=True, slots=True)
class Difference:
    """Mean paired difference with its 95 % interval."""

    mean: float
    low: float
    high: float

    @property
    def significant(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.low > 0 or self.high < 0


def paired_bootstrap(a: Sequence[float], b: Sequence[float], *, draws: int = 2000, seed: int = 13) -> Difference:
    """How much better `a` is than `b` on the same queries.

    Args:
        a: Values by query.
        b: Values by query, in the same order.
        draws: Resamples of the queries.
        seed: Of the draws.

    Raises:
        InputError: If the lists are empty or of different length.

    Example:
        >>> paired_bootstrap([1.0, 1.0], [0.0, 0.0])
        Difference(mean=1.0, low=1.0, high=1.0)
    """
    if len(a) != len(b) or not len(a):
        raise InputError(f"A paired comparison needs as many values on both sides, got {len(a)} and {len(b)}.")
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    rng = np.random.default_rng(seed)
    means = np.array([differences[rng.integers(0, len(a), len(a))].mean() for _ in range(draws)])
    low, high = np.percentile(means, [2.5, 97.5])
    return Difference(float(differences.mean()), float(low), float(high))
