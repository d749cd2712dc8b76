"""What training changed in a model's weights, as a small file that gives the same weights on every machine.

A matrix's change is kept as two factors of low rank. Their entries are 8-bit integers and their scales powers of two,
so the product is exact in float64 whatever the order of its sums, and so are the weights that come of it.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .errors import InputError, ModelError

_LEFT, _RIGHT, _EXPONENT = ".left", ".right", ".exponent"


def make_delta(start: Mapping[str, Tensor], trained: Mapping[str, Tensor], rank: int) -> dict[str, Tensor]:
    """The change from one set of weights to another, of low rank.

    Args:
        start: Tensors by name.
        trained: Tensors of the same names and shapes.
        rank: Rank that a matrix's change is cut to; all else is kept as it is, in float32.

    Returns:
        For a matrix `[m, n]` that changed: `name.left` `[m, r]` and `name.right` `[r, n]`, int8, and `name.exponent`
        `[r]`, int16, powers of two; for any other tensor that changed, its new values.

    Raises:
        InputError: If names or shapes differ, or the rank is below 1.

    Example:
        >>> import torch
        >>> start, change = {"w": torch.zeros(3, 2)}, torch.tensor([[1.0, 2.0], [2.0, 4.0], [0.0, 0.0]])
        >>> delta = make_delta(start, {"w": change}, rank=1)
        >>> bool((apply_delta(start, delta)["w"] - change).abs().max() < 0.05)
        True
    """
    if rank < 1:
        raise InputError(f"The rank of a delta must be at least 1, got {rank}.")
    if {n: t.shape for n, t in start.items()} != {n: t.shape for n, t in trained.items()}:
        raise InputError("A delta needs two models with the same tensors; these differ in names or shapes.")
    delta: dict[str, Tensor] = {}
    for name, before in start.items():
        after = trained[name]
        if torch.equal(before, after):
            continue
        if before.ndim != 2:
            delta[name] = after.float().contiguous()
            continue
        left, values, right = torch.linalg.svd(after.double() - before.double(), full_matrices=False)
        root = values[:rank].sqrt()
        quantised_left, left_exponent = _quantised(left[:, :rank] * root, dim=0)
        quantised_right, right_exponent = _quantised(right[:rank] * root.unsqueeze(1), dim=1)
        delta[name + _LEFT], delta[name + _RIGHT] = quantised_left, quantised_right
        delta[name + _EXPONENT] = (left_exponent + right_exponent).to(torch.int16)
    return delta


def apply_delta(start: Mapping[str, Tensor], delta: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights that a delta stands for, to the bit the same everywhere.

    Args:
        start: The tensors that the delta was made from.
        delta: From `make_delta`.

    Raises:
        ModelError: If the delta names a tensor that is not there.
    """
    weights = dict(start)
    for name, values in delta.items():
        if name.endswith((_RIGHT, _EXPONENT)):
            continue
        target = name.removesuffix(_LEFT)
        if target not in weights:
            raise ModelError(f"The delta changes {target!r}, which the weights do not have: they are of another model.")
        if target == name:
            weights[name] = values.to(start[name].dtype)
            continue
        scale = torch.ldexp(torch.ones((), dtype=torch.float64), delta[target + _EXPONENT].double())
        change = (values.double() * scale) @ delta[target + _RIGHT].double()
        weights[target] = (start[target].double() + change).to(start[target].dtype)
    return weights


def _quantised(values: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Int8 along `dim`, and the exponents of the powers of two that they are multiples of."""
    largest = values.abs().amax(dim=dim, keepdim=True).clamp(min=2.0**-100)
    exponent = (largest / 127).log2().ceil()
    return (values / exponent.exp2()).round().to(torch.int8).contiguous(), exponent.squeeze(dim)
