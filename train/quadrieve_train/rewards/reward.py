"""What a candidate is worth: the rank or the likelihood of the desired output, from the scores of all outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

RewardKind = Literal["rank", "likelihood"]


def rank_of_first(scores: Sequence[float]) -> float:
    """Rank of the first score, 1 for the highest; a tie gives the mean of the ranks it spans.

    Example:
        >>> rank_of_first([0.5, 0.9, 0.5, 0.1])
        2.5
    """
    higher = sum(score > scores[0] for score in scores[1:])
    equal = sum(score == scores[0] for score in scores[1:])
    return 1 + higher + equal / 2


def rank_reward(without: Sequence[float], with_candidate: Sequence[float]) -> float:
    """How much a candidate improves the rank of the desired output, over the number of other outputs.

    Args:
        without: Scores of the desired output and then of the `N` others, given the query alone.
        with_candidate: The same outputs given query and candidate.

    Returns:
        `(rank without - rank with) / N`, in [-1, 1].

    Example:
        >>> rank_reward([-3.0, -1.0, -2.0], [-0.5, -1.0, -2.0])
        1.0
    """
    others = len(without) - 1
    return (rank_of_first(without) - rank_of_first(with_candidate)) / others if others else 0.0


def likelihood_reward(with_candidate: Sequence[float]) -> float:
    """Mean log-likelihood per token of the desired output given query and candidate.

    Example:
        >>> likelihood_reward([-0.5, -1.0])
        -0.5
    """
    return with_candidate[0]
