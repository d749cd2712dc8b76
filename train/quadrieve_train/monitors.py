"""Ways in which multi-task training from rewards goes wrong, each watched by a monitor with a stated threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


class TrainingWarning(UserWarning):
    """Base of what monitors warn of."""


class FlatEmbeddingsWarning(TrainingWarning):
    """Vectors no longer tell texts apart."""


class ForgettingWarning(TrainingWarning):
    """A task got worse than it was before training."""


class InterferenceWarning(TrainingWarning):
    """Tasks pull the weights in opposite directions."""


class RewardHackingWarning(TrainingWarning):
    """The reward rises while answers do not get better."""


@dataclass(frozen=True)
class Figures:
    """What an evaluation found, by task.

    Attributes:
        step: Optimizer steps so far.
        ndcg: On the dev set.
        drift: Mean cosine distance of the dev queries' vectors from where they started.
        effective_rank: Of the dev candidates' vectors, see `effective_rank`.
        mean_cosine: Of pairs of different dev candidates.
        loss: Smoothed training loss.
        gradient_cosine: By pair of tasks, named `a/b`.
        reward: Of the candidate that ranks first, on labelled dev rows.
        quality: Of the answer given with that candidate.
    """

    step: int
    ndcg: Mapping[str, float] = field(default_factory=dict)
    drift: Mapping[str, float] = field(default_factory=dict)
    effective_rank: Mapping[str, float] = field(default_factory=dict)
    mean_cosine: Mapping[str, float] = field(default_factory=dict)
    loss: Mapping[str, float] = field(default_factory=dict)
    gradient_cosine: Mapping[str, float] = field(default_factory=dict)
    reward: Mapping[str, float] = field(default_factory=dict)
    quality: Mapping[str, float] = field(default_factory=dict)


class Monitor(Protocol):
    """Compares the figures of an evaluation with those of the first one."""

    name: ClassVar[str]
    warning: ClassVar[type[TrainingWarning]]

    def check(self, first: Figures, now: Figures) -> list[str]:
        """One sentence for each thing that is wrong."""
        ...


@dataclass(frozen=True)
class FlatEmbeddings:
    """Warns where the effective rank falls below a share of its start, or pairs become too alike.

    Attributes:
        rank_share: Lowest share of the first effective rank.
        cosine: Highest mean cosine of different texts.
    """

    rank_share: float = 0.5
    cosine: float = 0.7
    name: ClassVar[str] = "flat_embeddings"
    warning: ClassVar[type[TrainingWarning]] = FlatEmbeddingsWarning

    def check(self, first: Figures, now: Figures) -> list[str]:
        """One sentence for each task whose vectors went flat."""
        found = [
            f"{task}: the effective rank fell from {first.effective_rank[task]:.0f} to {rank:.0f}, below "
            f"{self.rank_share:.0%} of it"
            for task, rank in now.effective_rank.items()
            if task in first.effective_rank and rank < self.rank_share * first.effective_rank[task]
        ]
        return found + [
            f"{task}: different texts have a mean cosine of {cosine:.2f}, above {self.cosine}"
            for task, cosine in now.mean_cosine.items()
            if cosine > self.cosine
        ]


@dataclass(frozen=True)
class Forgetting:
    """Warns where a task's NDCG falls, or its vectors move far from where they were.

    Attributes:
        drop: Largest fall of NDCG below its start.
        drift: Largest mean cosine distance of the queries' vectors from their start.
    """

    drop: float = 0.02
    drift: float = 0.5
    name: ClassVar[str] = "forgetting"
    warning: ClassVar[type[TrainingWarning]] = ForgettingWarning

    def check(self, first: Figures, now: Figures) -> list[str]:
        """One sentence for each task that is forgotten."""
        found = [
            f"{task}: NDCG fell from {first.ndcg[task]:.3f} to {value:.3f}, by more than {self.drop}"
            for task, value in now.ndcg.items()
            if task in first.ndcg and value < first.ndcg[task] - self.drop
        ]
        return found + [
            f"{task}: vectors drifted by {drift:.2f}, more than {self.drift}"
            for task, drift in now.drift.items()
            if drift > self.drift
        ]


@dataclass(frozen=True)
class Interference:
    """Warns where a task's loss rises while another's falls, or gradients of two tasks point apart.

    Attributes:
        ratio: Highest ratio of a task's loss to its first one, while another task's is below 1.
        cosine: Lowest cosine between the gradients of two tasks.
    """

    ratio: float = 1.2
    cosine: float = -0.3
    name: ClassVar[str] = "interference"
    warning: ClassVar[type[TrainingWarning]] = InterferenceWarning

    def check(self, first: Figures, now: Figures) -> list[str]:
        """One sentence for each task or pair of tasks that suffers."""
        ratios = {task: loss / first.loss[task] for task, loss in now.loss.items() if first.loss.get(task, 0) > 0}
        found = [
            f"{task}: the loss rose to {ratio:.2f} times its start, above {self.ratio}, while others fell"
            for task, ratio in ratios.items()
            if ratio > self.ratio and min(ratios.values()) < 1
        ]
        return found + [
            f"{pair}: gradients have a cosine of {cosine:.2f}, below {self.cosine}"
            for pair, cosine in now.gradient_cosine.items()
            if cosine < self.cosine
        ]


@dataclass(frozen=True)
class RewardHacking:
    """Warns where the reward of what ranks first rises while the answers given with it get no better.

    Attributes:
        rise: Smallest rise of the mean reward that counts.
        gain: Smallest gain of answer quality that is expected then.
    """

    rise: float = 0.05
    gain: float = 0.0
    name: ClassVar[str] = "reward_hacking"
    warning: ClassVar[type[TrainingWarning]] = RewardHackingWarning

    def check(self, first: Figures, now: Figures) -> list[str]:
        """One sentence for each task whose reward says more than its answers."""
        return [
            f"{task}: the reward rose by {reward - first.reward[task]:.3f} while answer quality changed by "
            f"{now.quality[task] - first.quality[task]:+.3f}"
            for task, reward in now.reward.items()
            if task in first.reward and task in first.quality and task in now.quality
            if reward - first.reward[task] >= self.rise and now.quality[task] - first.quality[task] <= self.gain
        ]


#: All monitors by name.
MONITORS: dict[str, type[Any]] = {
    monitor.name: monitor for monitor in (FlatEmbeddings, Forgetting, Interference, RewardHacking)
}


def effective_rank(vectors: NDArray[np.float32]) -> float:
    """The exponential of the entropy of the singular values: 1 for one direction, `dim` for all alike.

    Example:
        >>> import numpy as np
        >>> round(effective_rank(np.eye(4, dtype=np.float32)), 3), round(effective_rank(np.ones((4, 4))), 3)
        (4.0, 1.0)
    """
    values = np.linalg.svd(np.asarray(vectors, dtype=np.float64), compute_uv=False)
    shares = values / values.sum()
    shares = shares[shares > 1e-12]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_cosine(vectors: NDArray[np.float32]) -> float:
    """Mean cosine of pairs of different unit rows.

    Example:
        >>> import numpy as np
        >>> mean_cosine(np.eye(3, dtype=np.float32))
        0.0
    """
    count = len(vectors)
    total = vectors.sum(axis=0, dtype=np.float64)
    return float((total @ total - count) / (count * (count - 1))) if count > 1 else 0.0
