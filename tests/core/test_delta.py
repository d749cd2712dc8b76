"""A delta is small, near to what training changed, and gives the same weights everywhere."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quadrieve.delta import apply_delta, make_delta
from quadrieve.errors import InputError, ModelError


def random(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 1000), st.integers(1, 12), st.integers(1, 12), st.floats(1e-6, 1e4))
def test_at_full_rank_a_change_of_any_size_is_kept_to_within_a_few_percent(
    seed: int, rows: int, columns: int, size: float
) -> None:
    start = {"w": random(seed, rows, columns)}
    change = random(seed + 1, rows, columns) * size
    made = apply_delta(start, make_delta(start, {"w": start["w"] + change}, rank=12))
    assert torch.linalg.norm(made["w"] - start["w"] - change) <= 0.05 * torch.linalg.norm(change) + 1e-5


def test_a_higher_rank_keeps_more_of_a_change() -> None:
    start = {"w": torch.zeros(32, 24)}
    wanted = random(3, 32, 24)
    errors = [
        float(torch.linalg.norm(apply_delta(start, make_delta(start, {"w": wanted}, rank))["w"] - wanted))
        for rank in (1, 4, 12, 24)
    ]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.05 * errors[0]


@given(st.integers(0, 1000), st.permutations(range(16)))
def test_the_order_of_sums_changes_no_bit(seed: int, order: list[int]) -> None:
    start = {"w": random(seed, 9, 7)}
    delta = make_delta(start, {"w": random(seed + 1, 9, 16) @ random(seed + 2, 16, 7)}, rank=7)
    shuffled = [i for i in order if i < 7]
    other = {
        "w.left": delta["w.left"][:, shuffled],
        "w.right": delta["w.right"][shuffled],
        "w.exponent": delta["w.exponent"][shuffled],
    }
    assert torch.equal(apply_delta(start, delta)["w"], apply_delta(start, other)["w"])


def test_vectors_are_kept_as_they_are_and_what_did_not_change_takes_no_room() -> None:
    start = {"bias": random(1, 5), "w": random(2, 4, 4), "ids": torch.arange(3)}
    delta = make_delta(start, {**start, "bias": random(3, 5)}, rank=2)
    assert list(delta) == ["bias"]
    made = apply_delta(start, delta)
    assert torch.equal(made["bias"], random(3, 5))
    assert made["w"] is start["w"]


def test_other_weights_are_refused() -> None:
    start = {"w": torch.zeros(2, 2)}
    with pytest.raises(InputError, match="same tensors"):
        make_delta(start, {"w": torch.zeros(2, 3)}, 1)
    with pytest.raises(InputError, match="at least 1"):
        make_delta(start, start, 0)
    with pytest.raises(ModelError, match=r"changes 'w'.*another model"):
        apply_delta({}, make_delta(start, {"w": torch.ones(2, 2)}, 1))
