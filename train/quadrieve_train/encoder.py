"""The model under training: a text encoder, its pooling and its temperature, and vectors gathered over processes."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx

from quadrieve.checkpoint import Checkpoint, quiet_transformers
from quadrieve.embedder import pool
from quadrieve.errors import InputError, ModelError

from .losses import Temperature

Features = Mapping[str, Tensor]


class BiEncoder(nn.Module):
    """One encoder for both sides; it maps groups of padded texts to unit vectors.

    Args:
        backbone: A text encoder of transformers.
        pooling: `cls`, `mean` or `last`.
        temperature: Learned or fixed, it is trained and saved with the encoder.
    """

    def __init__(self, backbone: nn.Module, pooling: Any, temperature: Temperature) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.temperature = temperature

    @classmethod
    def load(
        cls,
        checkpoint: Checkpoint,
        temperature: Temperature,
        *,
        lora: int | None = None,
        dropout: float | None = None,
        train_embeddings: bool = True,
    ) -> BiEncoder:
        """Read a checkpoint's weights, in float32, ready to be trained.

        Args:
            checkpoint: From `quadrieve.checkpoint.find`.
            temperature: Its temperature.
            lora: Rank of LoRA adapters to train in place of the weights (needs peft).
            dropout: Dropout of the encoder; None for the checkpoint's own.
            train_embeddings: Whether tokens' embeddings are trained too.

        Raises:
            ModelError: If the weights cannot be read, or peft is not installed.
        """
        from transformers import AutoConfig, AutoModel

        try:
            config = AutoConfig.from_pretrained(checkpoint.folder, trust_remote_code=False)
            if dropout is not None:
                for name in ("hidden_dropout_prob", "attention_probs_dropout_prob", "attention_dropout", "dropout"):
                    if hasattr(config, name):
                        setattr(config, name, dropout)
            with quiet_transformers():
                backbone = AutoModel.from_pretrained(
                    checkpoint.folder, config=config, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            raise ModelError(f"{checkpoint.name} cannot be loaded for training: {error}") from error
        pooler = getattr(backbone, "pooler", None)
        if pooler is not None:  # plays no part in the vectors, so it would never get a gradient
            pooler.requires_grad_(False)
        if not train_embeddings:
            backbone.get_input_embeddings().requires_grad_(False)
        return cls(_with_lora(backbone, lora) if lora else backbone, checkpoint.pooling, temperature)

    def forward(self, groups: Sequence[Features]) -> tuple[Tensor, Tensor]:
        """Unit vectors `[n, dim]` float32 of all texts, group after group, and the temperature."""
        vectors = []
        for group, inputs in zip(groups, self._look_up(groups), strict=True):
            hidden = self.backbone(inputs_embeds=inputs, attention_mask=group["attention_mask"]).last_hidden_state
            pooled = pool(hidden, group["attention_mask"], self.pooling)
            vectors.append(nn.functional.normalize(pooled.float(), dim=-1))
        return torch.cat(vectors), self.temperature()

    def _look_up(self, groups: Sequence[Features]) -> list[Tensor]:
        """The tokens' embeddings, all in one go: each look-up makes a gradient of the vocabulary's whole size."""
        embeddings: nn.Module = self.backbone.get_input_embeddings()  # type: ignore[operator]  # transformers' own
        ids = [group["input_ids"] for group in groups]
        found = embeddings(torch.cat([part.flatten() for part in ids]))
        parts = found.split([part.numel() for part in ids])
        return [rows.view(*part.shape, -1) for rows, part in zip(parts, ids, strict=True)]

    def merged(self) -> nn.Module:
        """The backbone as it is saved: LoRA adapters merged into a copy of it."""
        merge = getattr(self.backbone, "merge_and_unload", None)
        if merge is None:
            return self.backbone
        from copy import deepcopy

        merged: nn.Module = deepcopy(self.backbone).merge_and_unload()  # type: ignore[operator]  # peft's, by name
        return merged


def _with_lora(backbone: nn.Module, rank: int) -> nn.Module:
    try:
        from peft import LoraConfig, get_peft_model
    except ImportError as error:
        raise ModelError("LoRA needs peft; install it with `pip install peft`.") from error
    adapted: nn.Module = get_peft_model(
        backbone, LoraConfig(r=rank, lora_alpha=2 * rank, target_modules="all-linear", exclude_modules=r".*pooler.*")
    )
    return adapted


class _GatherRows(torch.autograd.Function):
    """Rows of all processes, each process's as many as `counts` says; gradients return to where rows came from."""

    @staticmethod
    def forward(ctx: FunctionCtx, rows: Tensor, counts: tuple[int, ...]) -> Tensor:
        ctx.counts = counts  # type: ignore[attr-defined]  # contexts are open objects
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        torch.distributed.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> tuple[Tensor, None]:
        (gradient,) = gradients
        counts: tuple[int, ...] = ctx.counts  # type: ignore[attr-defined]  # set in forward
        total = gradient.contiguous().clone()
        torch.distributed.all_reduce(total)
        rank = torch.distributed.get_rank()
        return torch.split(total, list(counts))[rank], None


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """Rows of all processes in the order of ranks, and the place of this process's first row.

    Processes may have different numbers of rows. Gradients flow back to every process's rows, summed over the losses
    of all processes: with parameters' gradients averaged over processes (as DDP does), the result is the gradient of
    the mean loss.

    Args:
        rows: `[n, …]`.

    Returns:
        `[N, …]` and the offset of this process within it; `rows` and 0 in a single process.
    """
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return rows, 0
    sizes = torch.zeros(torch.distributed.get_world_size(), dtype=torch.long, device=rows.device)
    rank = torch.distributed.get_rank()
    sizes[rank] = len(rows)
    torch.distributed.all_reduce(sizes)
    counts = tuple(int(size) for size in sizes)
    gathered: Tensor = _GatherRows.apply(rows, counts)  # type: ignore[no-untyped-call]  # torch's own signature
    return gathered, sum(counts[:rank])


def cached_backward(
    encode: Any,
    groups: Sequence[Features],
    loss: Any,
    backward: Any,
    no_sync: Any,
) -> Tensor:
    """Forward and backward of a batch of any size in the memory of one group (GradCache, arXiv 2101.06983).

    All groups are encoded without a graph; the loss gives the gradient of each vector; then each group is encoded
    again, under the same random state, and its vectors' gradients are taken further back. What is accumulated in the
    parameters is what a single backward over the whole batch would have given.

    Args:
        encode: Takes groups, returns vectors and temperature, as `BiEncoder.forward`; may be wrapped by DDP.
        groups: The batch, in parts that fit into memory.
        loss: Takes vectors `[n, dim]` and temperature, returns a scalar; may gather over processes.
        backward: Called with each scalar to go back from, in place of `scalar.backward()`.
        no_sync: Context in which gradients stay within the process; used for all groups but the last.

    Returns:
        The loss, without a graph.

    Raises:
        InputError: If there is no group.
    """
    if not groups:
        raise InputError("Expected at least one group of texts to encode.")
    states, parts = [], []
    temperature = torch.tensor(0.0)
    with torch.no_grad():
        for group in groups:
            states.append(_random_state())
            vectors, temperature = encode([group])
            parts.append(vectors)
    leaves = torch.cat(parts).requires_grad_()
    leaf_temperature = temperature.detach().clone().requires_grad_()
    value: Tensor = loss(leaves, leaf_temperature)
    value.backward()  # type: ignore[no-untyped-call]  # torch's own signature
    assert leaves.grad is not None
    after = _random_state()
    gradients = torch.split(leaves.grad, [len(part) for part in parts])
    for number, (group, state, gradient) in enumerate(zip(groups, states, gradients, strict=True)):
        last = number == len(groups) - 1
        _set_random_state(state)
        with contextlib.nullcontext() if last else no_sync():
            vectors, temperature = encode([group])
            surrogate = (vectors * gradient).sum()
            if leaf_temperature.grad is not None:
                share = leaf_temperature.grad if last else torch.zeros_like(leaf_temperature)
                surrogate = surrogate + temperature * share
            backward(surrogate)
    _set_random_state(after)
    return value.detach()


def _random_state() -> tuple[Tensor, list[Tensor]]:
    return torch.get_rng_state(), torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []


def _set_random_state(state: tuple[Tensor, list[Tensor]]) -> None:
    torch.set_rng_state(state[0])
    if state[1]:
        torch.cuda.set_rng_state_all(state[1])
