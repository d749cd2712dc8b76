"""What a query's vector learns from the rewards, or the labels, of its candidates.

All losses take one row of cosine similarities a query, over every candidate of the batch, and point at the query's
own candidates by column, so that candidates gathered from other processes are columns like any other.

Shapes: `B` queries, `K` candidates in the batch, `M` own candidates a query. In `own`, -1 stands for no candidate, so
queries may have fewer than `M`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from quadrieve.errors import InputError

Tau = float | Tensor


def graded_distillation_loss(
    scores: Tensor,
    rewards: Tensor,
    own: Tensor,
    negatives: Tensor,
    tau: Tau = 0.01,
    tau_reward: float = 1.0,
    *,
    first: Tensor | None = None,
) -> Tensor:
    """A contrastive loss for every candidate against only what is worth less, weighted by its reward.

    With `w = softmax(rewards / tau_reward)` over a query's own candidates and `N(i)` the own candidates of strictly
    lower reward together with the in-batch negatives (arXiv 2310.07554, section 3.2):

        L = - sum_i w_i log( exp(s_i / tau) / (exp(s_i / tau) + sum_{n in N(i)} exp(s_n / tau)) )

    Candidates with equal rewards never push each other apart.

    Args:
        scores: `[B, K]`, cosine of each query with every candidate of the batch.
        rewards: `[B, M]`, what the language model made of each own candidate; any scale.
        own: `[B, M]` integers, the columns of a query's own candidates; -1 where there is none.
        negatives: `[B, K]` bool, candidates of other queries that count as negatives; own columns are ignored in it.
        tau: Temperature of the scores, above 0; a tensor may be learned.
        tau_reward: Temperature of the rewards, above 0: small makes the best candidate count alone.
        first: `[B, M]` bool, candidates that rank above all others whatever their reward (a labelled positive, as the
            authors' code has it). Weights still come from the rewards.

    Returns:
        Scalar, mean over `B`, at least 0. A query without candidates adds 0.

    Raises:
        InputError: If shapes or temperatures do not fit together.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.1, 0.3]])
        >>> own, in_batch = torch.tensor([[0, 1]]), torch.tensor([[False, False, True]])
        >>> right = graded_distillation_loss(scores, torch.tensor([[1.0, 0.0]]), own, in_batch, tau=0.1)
        >>> wrong = graded_distillation_loss(scores, torch.tensor([[0.0, 1.0]]), own, in_batch, tau=0.1)
        >>> bool(right < wrong)
        True
    """
    _check(scores, own, negatives, tau, rewards)
    if tau_reward <= 0:
        raise InputError(f"tau_reward must be above 0, got {tau_reward}.")
    logits, present = _own_logits(scores, own, tau)
    order = rewards.to(logits.dtype)
    weights = torch.where(present, order / tau_reward, _floor(logits)).softmax(dim=-1) * present
    if first is not None:
        order = torch.where(first, order.amax(dim=-1, keepdim=True) + 1, order)
    beaten = order.unsqueeze(1) < order.unsqueeze(2)  # [B, i, j]: j is worth less than i
    against = (beaten & present.unsqueeze(1)) | torch.eye(own.shape[1], dtype=torch.bool, device=own.device)
    among_own = torch.where(against, logits.unsqueeze(1), _floor(logits)).logsumexp(dim=-1)
    total = torch.logaddexp(among_own, _in_batch_logsumexp(scores, own, negatives, tau).unsqueeze(-1))
    return (weights * (total - logits)).sum(dim=-1).mean()


def kl_distillation_loss(
    scores: Tensor, rewards: Tensor, own: Tensor, tau: Tau = 0.01, tau_reward: float = 0.1
) -> Tensor:
    """`KL(softmax(rewards / tau_reward) || softmax(scores / tau))` over each query's own candidates, mean over `B`.

    The ablation of graded distillation; arguments and errors as there.

    Example:
        >>> import torch
        >>> rewards = torch.tensor([[1.0, 0.0]])
        >>> loss = kl_distillation_loss(rewards, rewards, torch.tensor([[0, 1]]), tau=0.1, tau_reward=0.1)
        >>> round(loss.item(), 6)
        0.0
    """
    _check(scores, own, None, tau, rewards)
    if tau_reward <= 0:
        raise InputError(f"tau_reward must be above 0, got {tau_reward}.")
    logits, present = _own_logits(scores, own, tau)
    floor = _floor(logits)
    teacher = torch.where(present, rewards.to(logits.dtype) / tau_reward, floor).log_softmax(dim=-1)
    student = torch.where(present, logits, floor).log_softmax(dim=-1)
    divergence = torch.where(present, teacher.exp() * (teacher - student), 0.0)
    return divergence.sum(dim=-1).mean()


def contrastive_loss(scores: Tensor, positives: Tensor, own: Tensor, negatives: Tensor, tau: Tau = 0.01) -> Tensor:
    """InfoNCE on labels: each labelled positive against the query's own other candidates and the in-batch negatives.

    Positives of one query never push each other apart. With one positive a query this is the usual multiple-negatives
    ranking loss with hard negatives.

    Args:
        scores: `[B, K]`, cosine of each query with every candidate of the batch.
        positives: `[B, M]` bool, which own candidates are labelled positive.
        own: `[B, M]`, as in `graded_distillation_loss`.
        negatives: `[B, K]` bool, as there.
        tau: Temperature of the scores, above 0.

    Returns:
        Scalar: mean over a query's positives, then over `B`. A query without a positive adds 0.
    """
    _check(scores, own, negatives, tau, positives)
    logits, present = _own_logits(scores, own, tau)
    right = positives.bool() & present
    wrong = torch.where(present & ~right, logits, _floor(logits)).logsumexp(dim=-1)
    against = torch.logaddexp(wrong, _in_batch_logsumexp(scores, own, negatives, tau)).unsqueeze(-1)
    loss = torch.where(right, torch.logaddexp(logits, against) - logits, 0.0)
    return (loss.sum(dim=-1) / right.sum(dim=-1).clamp(min=1)).mean()


def anchor_loss(vectors: Tensor, anchors: Tensor, weights: Tensor) -> Tensor:
    """How far texts' vectors have gone from what another model makes of the same texts, in cosine distance.

    Keeps what a model knew and no row of the training asks for, as Learning without Forgetting does with the outputs of
    the old model (arXiv 1606.09282, section 3):

        L = 1/n sum_i weights_i (1 - cos(vectors_i, anchors_i))

    Args:
        vectors: `[n, dim]`, unit vectors under training.
        anchors: `[n, dim]`, unit vectors of the same texts, without gradients.
        weights: `[n]`, at least 0; 0 lets a text go free.

    Returns:
        Scalar, between 0 and twice the mean weight.

    Raises:
        InputError: If shapes do not fit together.

    Example:
        >>> import torch
        >>> before, now = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.6, 0.8]])
        >>> round(anchor_loss(now, before, torch.tensor([2.0])).item(), 4)
        0.8
    """
    if vectors.shape != anchors.shape or weights.shape != vectors.shape[:1]:
        raise InputError(
            "Expected vectors and anchors [n, dim] and weights [n], got "
            f"{list(vectors.shape)}, {list(anchors.shape)} and {list(weights.shape)}."
        )
    return (weights * (1 - (vectors.float() * anchors.float()).sum(dim=-1))).mean()


#: The names that a recipe may give a weight to.
LOSSES = ("graded", "kl", "contrastive")


def weighted_sum(
    weights: Mapping[str, float],
    scores: Tensor,
    rewards: Tensor,
    positives: Tensor,
    own: Tensor,
    negatives: Tensor,
    tau: Tau,
    tau_reward: float,
    tau_teacher: float = 0.1,
    *,
    positives_first: bool = False,
) -> Tensor:
    """The weighted sum of losses; each looks at the queries it can learn from, and the mean is over all `B`.

    Graded and KL distillation look at the queries that have rewards (NaN stands for none), the contrastive loss at
    all. What a query does not have adds 0.

    Args:
        weights: Weight by name of loss, see `LOSSES`.
        scores: `[B, K]`.
        rewards: `[B, M]`, NaN in all of a query's candidates where it has no rewards.
        positives: `[B, M]` bool.
        own: `[B, M]`.
        negatives: `[B, K]` bool.
        tau: Temperature of the scores.
        tau_reward: Temperature of the rewards in the graded loss.
        tau_teacher: Temperature of the rewards in the KL loss.
        positives_first: Let labelled positives rank first in the graded loss, whatever their rewards.
    """
    present = own >= 0
    rewarded = (present & rewards.isfinite()).any(dim=-1) & ~(present & ~rewards.isfinite()).any(dim=-1)
    share = rewarded.sum() / len(rewarded)
    total = scores.sum() * 0.0  # keeps the graph whole where no loss applies, as every process must go backward
    for name, weight in weights.items():
        if name == "contrastive":
            total = total + weight * contrastive_loss(scores, positives, own, negatives, tau)
        elif bool(rewarded.any()):
            graded_rewards = rewards[rewarded].nan_to_num(0.0)
            some = (scores[rewarded], graded_rewards, own[rewarded])
            if name == "graded":
                first = positives[rewarded] if positives_first else None
                loss = graded_distillation_loss(*some, negatives[rewarded], tau, tau_reward, first=first)
            else:
                loss = kl_distillation_loss(*some, tau, tau_teacher)
            total = total + weight * share * loss
    return total


class Temperature(nn.Module):
    """A temperature that is fixed, or learned as its logarithm within bounds.

    Example:
        >>> round(float(Temperature(0.02, learned=True)()), 4)
        0.02
    """

    def __init__(
        self, value: float = 0.01, *, learned: bool = False, lowest: float = 0.001, highest: float = 1.0
    ) -> None:
        super().__init__()
        if not lowest <= value <= highest:
            raise InputError(f"A temperature must lie between {lowest} and {highest}, got {value}.")
        self.learned = learned
        self.bounds = (math.log(lowest), math.log(highest))
        log_tau = torch.tensor(math.log(value), dtype=torch.float32)
        if learned:
            self.log_tau = nn.Parameter(log_tau)
        else:
            self.register_buffer("log_tau", log_tau)

    def forward(self) -> Tensor:
        """The temperature, a scalar tensor."""
        return self.log_tau.clamp(*self.bounds).exp()


def matryoshka(loss: Callable[[Tensor, Tensor], Tensor], dims: Sequence[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """The mean of a loss over vectors cut to each of `dims` and brought back to unit length (arXiv 2205.13147).

    Args:
        loss: Takes unit vectors of queries `[B, dim]` and candidates `[K, dim]`.
        dims: Lengths to cut to; empty for the vectors as they are.
    """
    if not dims:
        return loss

    def over_dims(queries: Tensor, keys: Tensor) -> Tensor:
        cut = [
            loss(
                nn.functional.normalize(queries[:, :dim].float(), dim=-1),
                nn.functional.normalize(keys[:, :dim].float(), dim=-1),
            )
            for dim in dims
        ]
        return torch.stack(cut).mean()

    return over_dims


def _own_logits(scores: Tensor, own: Tensor, tau: Tau) -> tuple[Tensor, Tensor]:
    """Scores over tau of the own candidates and which of them exist, both `[B, M]`."""
    present = own >= 0
    return scores.gather(1, own.clamp(min=0)) / tau, present


def _in_batch_logsumexp(scores: Tensor, own: Tensor, negatives: Tensor, tau: Tau) -> Tensor:
    """Logsumexp of scores over tau over the in-batch negatives, `[B]`."""
    # Missing candidates point at an extra last column, which is dropped.
    columns = torch.where(own >= 0, own, scores.shape[1])
    mine = torch.zeros(len(scores), scores.shape[1] + 1, dtype=torch.bool, device=scores.device)
    others = negatives & ~mine.scatter(1, columns, True)[:, :-1]
    logits = scores / tau
    return torch.where(others, logits, _floor(logits)).logsumexp(dim=-1)


def _floor(logits: Tensor) -> float:
    """Stands for minus infinity: adds nothing to a sum of exponentials, and its gradient is 0 instead of NaN."""
    return torch.finfo(logits.dtype).min / 4


def _check(scores: Tensor, own: Tensor, negatives: Tensor | None, tau: Tau, values: Tensor) -> None:
    if scores.ndim != 2 or own.ndim != 2 or len(scores) != len(own) or values.shape != own.shape:
        raise InputError(
            "Expected scores [B, K] and own and rewards (or positives) [B, M], got "
            f"{list(scores.shape)}, {list(own.shape)} and {list(values.shape)}."
        )
    if negatives is not None and negatives.shape != scores.shape:
        raise InputError(f"negatives must have the shape of scores {list(scores.shape)}, got {list(negatives.shape)}.")
    value = float(tau.detach()) if isinstance(tau, Tensor) else tau
    if value <= 0:
        raise InputError(f"tau must be above 0, got {value}.")
