"""The losses, against slow double-precision loops written from their formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve.errors import InputError
from quadrieve_train.losses import (
    Temperature,
    anchor_loss,
    contrastive_loss,
    graded_distillation_loss,
    kl_distillation_loss,
    matryoshka,
    weighted_sum,
)


def slow_graded(scores, rewards, own, negatives, tau, tau_reward):
    """The formula, one term at a time."""
    total = 0.0
    for b in range(len(scores)):
        mine = [(int(own[b, m]), float(rewards[b, m])) for m in range(own.shape[1]) if own[b, m] >= 0]
        in_batch = [k for k in range(scores.shape[1]) if negatives[b, k] and k not in {column for column, _ in mine}]
        exp_rewards = [math.exp(reward / tau_reward) for _, reward in mine]
        for (column, reward), weight in zip(mine, exp_rewards, strict=True):
            lower = [other for other, worth in mine if worth < reward]
            denominators = [float(scores[b, k]) / tau for k in (column, *lower, *in_batch)]
            highest = max(denominators)
            log_sum = highest + math.log(sum(math.exp(value - highest) for value in denominators))
            total -= weight / sum(exp_rewards) * (float(scores[b, column]) / tau - log_sum)
    return total / len(scores)


@st.composite
def batches(draw):
    b, m = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    k = b * m + draw(st.integers(0, 3))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    scores = torch.rand(b, k, generator=generator, dtype=torch.float64) * 2 - 1
    kind = draw(st.sampled_from(["graded", "ties", "flat", "polarised"]))
    rewards = {
        "graded": torch.rand(b, m, generator=generator, dtype=torch.float64) * 2 - 1,
        "ties": torch.randint(0, 2, (b, m), generator=generator).double() / 2,
        "flat": torch.full((b, m), 0.3, dtype=torch.float64),
        "polarised": torch.eye(m, dtype=torch.float64)[torch.randint(0, m, (b,), generator=generator)] * 40 - 20,
    }[kind]
    own = torch.arange(b * m).reshape(b, m)
    missing = torch.rand(b, m, generator=generator) < draw(st.sampled_from([0.0, 0.4]))
    missing[:, 0] = False
    own = own.masked_fill(missing, -1)
    negatives = torch.rand(b, k, generator=generator) < draw(st.sampled_from([0.0, 0.5, 1.0]))
    return scores, rewards, own, negatives


@settings(max_examples=100, deadline=None)
@given(batches(), st.sampled_from([0.01, 0.05, 1.0]), st.sampled_from([0.1, 1.0]))
def test_graded_loss_equals_the_formula(batch, tau, tau_reward):
    expected = slow_graded(*batch, tau, tau_reward)
    assert graded_distillation_loss(*batch, tau, tau_reward).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=100, deadline=None)
@given(batches())
def test_graded_loss_in_single_precision_is_close_and_its_gradient_finite(batch):
    scores, rewards, own, negatives = batch
    single = scores.float().requires_grad_()
    loss = graded_distillation_loss(single, rewards.float(), own, negatives, 0.01)
    loss.backward()
    assert loss.item() == pytest.approx(slow_graded(scores, rewards, own, negatives, 0.01, 1.0), rel=1e-4, abs=1e-4)
    assert single.grad.isfinite().all()


@settings(max_examples=5, deadline=None)
@given(batches())
def test_gradients_of_all_losses_are_those_of_finite_differences(batch):
    scores, rewards, own, negatives = batch
    positives = (rewards >= rewards.amax(dim=-1, keepdim=True)) & (own >= 0)
    scores.requires_grad_()
    for loss in (
        lambda s: graded_distillation_loss(s, rewards, own, negatives, 0.5),
        lambda s: kl_distillation_loss(s, rewards, own, 0.5, 0.5),
        lambda s: contrastive_loss(s, positives, own, negatives, 0.5),
    ):
        assert torch.autograd.gradcheck(loss, scores, atol=1e-6)


def test_tied_candidates_do_not_push_each_other_apart():
    scores = torch.tensor([[0.2, 0.8, 0.1]], dtype=torch.float64, requires_grad=True)
    nothing = torch.zeros(1, 3, dtype=torch.bool)
    loss = graded_distillation_loss(scores, torch.tensor([[0.5, 0.5, 0.5]]), torch.tensor([[0, 1, 2]]), nothing)
    loss.backward()
    assert loss.item() == 0
    assert not scores.grad.any()


@settings(max_examples=50, deadline=None)
@given(batches())
def test_polarised_rewards_make_the_graded_loss_plain_contrastive(batch):
    scores, _, own, negatives = batch
    positives = torch.zeros_like(own, dtype=torch.bool)
    positives[:, 0] = True
    graded = graded_distillation_loss(scores, positives.double(), own, negatives, 0.05, tau_reward=1e-3)
    assert graded.item() == pytest.approx(contrastive_loss(scores, positives, own, negatives, 0.05).item(), abs=1e-9)


@settings(max_examples=50, deadline=None)
@given(batches())
def test_kl_equals_torchs_where_all_candidates_exist(batch):
    scores, rewards, own, _ = batch
    own = torch.arange(own.numel()).reshape(own.shape)
    expected = torch.nn.functional.kl_div(
        (scores.gather(1, own) / 0.05).log_softmax(-1), (rewards / 0.1).softmax(-1), reduction="batchmean"
    )
    assert kl_distillation_loss(scores, rewards, own, 0.05).item() == pytest.approx(expected.item(), abs=1e-9)


def test_contrastive_loss_is_cross_entropy_over_the_batch():
    torch.manual_seed(0)
    scores = torch.rand(4, 4, dtype=torch.float64)
    own = torch.arange(4).unsqueeze(1)
    positives, everyone = torch.ones(4, 1, dtype=torch.bool), torch.ones(4, 4, dtype=torch.bool)
    expected = torch.nn.functional.cross_entropy(scores / 0.05, torch.arange(4))
    assert contrastive_loss(scores, positives, own, everyone, 0.05).item() == pytest.approx(expected.item())


def test_labelled_positives_rank_first_only_when_asked():
    scores = torch.tensor([[0.5, 0.5]])
    rewards, own = torch.tensor([[0.0, 1.0]]), torch.tensor([[0, 1]])
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    first = torch.tensor([[True, False]])
    plain = torch.autograd.functional.jacobian(
        lambda s: graded_distillation_loss(s, rewards, own, nothing, 0.1), scores
    )
    switched = torch.autograd.functional.jacobian(
        lambda s: graded_distillation_loss(s, rewards, own, nothing, 0.1, first=first), scores
    )
    assert plain[0, 0] > 0 > plain[0, 1]
    assert switched[0, 0] < 0 < switched[0, 1]


def test_a_sum_lets_each_loss_learn_from_the_queries_that_have_what_it_needs():
    torch.manual_seed(0)
    scores = torch.rand(2, 4, dtype=torch.float64)
    own = torch.arange(4).reshape(2, 2)
    everyone = torch.ones(2, 4, dtype=torch.bool)
    rewards = torch.tensor([[0.5, -0.5], [math.nan, math.nan]], dtype=torch.float64)
    positives = torch.tensor([[False, False], [True, False]])
    total = weighted_sum(
        {"graded": 1.0, "contrastive": 0.2}, scores, rewards, positives, own, everyone, 0.05, tau_reward=1.0
    )
    graded = slow_graded(scores[:1], rewards[:1], own[:1], everyone[:1], 0.05, 1.0)
    contrastive = contrastive_loss(scores[1:], positives[1:], own[1:], everyone[1:], 0.05).item()
    assert total.item() == pytest.approx(graded / 2 + 0.2 * contrastive / 2)


def test_a_learned_temperature_gets_a_gradient_and_stays_in_its_bounds():
    temperature = Temperature(0.05, learned=True, lowest=0.04)
    scores = torch.tensor([[0.1, 0.9]])
    loss = contrastive_loss(
        scores, torch.tensor([[True]]), torch.tensor([[0]]), torch.tensor([[False, True]]), temperature()
    )
    loss.backward()
    assert temperature.log_tau.grad < 0  # a wrong order is cheaper under a higher temperature
    with torch.no_grad():
        temperature.log_tau.fill_(-20)
    assert temperature().item() == pytest.approx(0.04)
    assert not list(Temperature(0.05).parameters())


def test_an_anchor_pulls_texts_back_to_where_they_were_and_lets_others_go():
    torch.manual_seed(0)
    before = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1)
    now = torch.nn.functional.normalize(torch.randn(2, 8), dim=-1).requires_grad_()
    loss = anchor_loss(now, before, torch.tensor([3.0, 0.0]))
    assert loss.item() == pytest.approx(3 * (1 - torch.cosine_similarity(now[:1], before[:1]).item()) / 2, abs=1e-6)
    loss.backward()
    assert (now.grad[0] * before[0]).sum() < 0  # down the slope is towards the anchor
    assert not now.grad[1].any()
    with pytest.raises(InputError, match=r"\[2, 8\], \[1, 8\] and \[2\]"):
        anchor_loss(now, before[:1], torch.ones(2))


def test_matryoshka_is_the_mean_over_cut_vectors():
    torch.manual_seed(0)
    queries, keys = torch.nn.functional.normalize(torch.randn(2, 3, 8), dim=-1)
    loss = lambda q, k: (q @ k.T).diagonal().mean()  # noqa: E731 - a loss in one line
    cut = torch.cosine_similarity(queries[:, :4], keys[:, :4]).mean()
    assert matryoshka(loss, [8, 4])(queries, keys).item() == pytest.approx((loss(queries, keys) + cut).item() / 2)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rewards": torch.zeros(1, 3)}, r"\[1, 2\], \[1, 2\] and \[1, 3\]"),
        ({"negatives": torch.zeros(1, 5, dtype=torch.bool)}, "negatives must have the shape"),
        ({"tau": 0.0}, "tau must be above 0"),
        ({"tau_reward": -1.0}, "tau_reward must be above 0"),
    ],
)
def test_shapes_and_temperatures_that_do_not_fit_are_refused(change, message):
    good = {
        "scores": torch.zeros(1, 2),
        "rewards": torch.zeros(1, 2),
        "own": torch.tensor([[0, 1]]),
        "negatives": torch.zeros(1, 2, dtype=torch.bool),
    }
    with pytest.raises(InputError, match=message):
        graded_distillation_loss(**{**good, **change})
