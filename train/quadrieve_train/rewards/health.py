"""Whether rewards say anything: read this before training on them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from quadrieve.errors import InputError

from ..rows import Row


@dataclass(frozen=True, slots=True)
class RewardHealth:
    """Figures over the rows that have rewards.

    Attributes:
        rows: How many.
        tie_rate: Share of pairs of candidates of one query with equal rewards, 0 to 1.
        flat_share: Share of queries whose candidates all have the same reward: they teach the order of nothing.
        weight_entropy: Mean entropy of `softmax(rewards / tau_reward)` over that of equal weights: 1 is flat, 0 is
            polarised.
        positive_rank: Mean rank of the best labelled positive among the candidates as a share, 0 first and 1 last, .5
            by chance; None where nothing is labelled.
        agreement: Mean Kendall tau-b between two kinds of reward, -1 to 1; None where only one was given.
    """

    rows: int
    tie_rate: float
    flat_share: float
    weight_entropy: float
    positive_rank: float | None
    agreement: float | None = None

    def to_dict(self) -> dict[str, float | int | None]:
        """The figures by name."""
        return asdict(self)


def reward_health(
    rows: Iterable[Row], *, tau_reward: float = 1.0, other: Iterable[Sequence[float]] | None = None
) -> RewardHealth:
    """Health of the rewards of rows.

    Args:
        rows: Rows, those without rewards or with a single candidate are passed over.
        tau_reward: The temperature that the loss will use.
        other: Rewards of another kind for the same rows in the same order.

    Raises:
        InputError: If no row has rewards.

    Example:
        >>> row = Row("qa", "Who?", pos=("Ada",), neg=("Bob", "Eve"), rewards=(0.5, 0.0, 0.0))
        >>> health = reward_health([row])
        >>> round(health.tie_rate, 2), health.flat_share, health.positive_rank
        (0.33, 0.0, 0.0)
    """
    taken = list(rows)
    others: list[Sequence[float]] = list(other) if other is not None else [()] * len(taken)
    ties, flats, entropies, ranks, agreements = [], [], [], [], []
    for row, second in zip(taken, others, strict=True):
        values = row.rewards
        if len(values) < 2:
            continue
        pairs = [(a, b) for i, a in enumerate(values) for b in values[i + 1 :]]
        ties.append(sum(a == b for a, b in pairs) / len(pairs))
        flats.append(max(values) == min(values))
        entropies.append(_entropy(values, tau_reward))
        if row.pos and row.neg:
            best = max(values[: len(row.pos)])
            above = sum(value > best for value in values[len(row.pos) :])
            equal = sum(value == best for value in values[len(row.pos) :])
            ranks.append((above + equal / 2) / len(row.neg))
        if len(second) == len(values) and (tau := kendall_tau(values, second)) is not None:
            agreements.append(tau)
    if not ties:
        raise InputError("No row has rewards for two candidates or more; label the rows first.")
    return RewardHealth(
        rows=len(ties),
        tie_rate=_mean(ties),
        flat_share=_mean(flats),
        weight_entropy=_mean(entropies),
        positive_rank=_mean(ranks) if ranks else None,
        agreement=_mean(agreements) if agreements else None,
    )


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau-b of two lists, or None where one of them is flat.

    Example:
        >>> kendall_tau([1, 2, 3], [10, 20, 30]), kendall_tau([1, 2], [2, 1]), kendall_tau([1, 1], [1, 2])
        (1.0, -1.0, None)
    """
    pairs = [(i, j) for i in range(len(a)) for j in range(i)]
    signs = [(_sign(a[i] - a[j]), _sign(b[i] - b[j])) for i, j in pairs]
    untied_a, untied_b = sum(x != 0 for x, _ in signs), sum(y != 0 for _, y in signs)
    return sum(x * y for x, y in signs) / math.sqrt(untied_a * untied_b) if untied_a and untied_b else None


def _entropy(values: Sequence[float], tau: float) -> float:
    highest = max(values)
    weights = [math.exp((value - highest) / tau) for value in values]
    shares = [weight / sum(weights) for weight in weights]
    return -sum(share * math.log(share) for share in shares if share) / math.log(len(values))


def _mean(values: Sequence[float | bool]) -> float:
    return sum(values) / len(values)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
