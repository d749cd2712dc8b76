"""Which rows a step sees: one task at a time over all processes, all tasks at once, or whatever comes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np

from quadrieve.errors import InputError

Batching = Literal["homogeneous", "heterogeneous", "mixed"]


@dataclass(frozen=True, slots=True)
class Draw:
    """One row for one step.

    Attributes:
        task: Name of the task.
        row: Index of the row within its task.
        epoch: How often the task's rows had all been seen before.
    """

    task: str
    row: int
    epoch: int


class TaskBlockSampler:
    """The rows of every micro-batch of this process, as a function of the step alone.

    A block is what one optimizer step sees over all processes and accumulation micro-batches. Each task's rows come
    in a shuffled stream that goes on over epochs, and blocks are cut from it: no row is lost at an epoch's end, and no
    row is seen twice before all have been seen. As nothing depends on what was read before, a run resumed at a step
    sees what it would have seen.

    - `homogeneous`: a block is of one task. Tasks take turns so that each keeps its share of the steps.
    - `heterogeneous`: every block holds each task's share of rows.
    - `mixed`: every row of a block is of a task drawn by its share.

    Args:
        sizes: Number of rows by task.
        batch_size: Queries in a micro-batch of one process; or by task (homogeneous batches only).
        steps: Optimizer steps.
        weights: Share of the steps (or rows) by task; None for the number of rows.
        batching: One of the three.
        rank: This process.
        world_size: All processes.
        accumulation: Micro-batches in an optimizer step.
        seed: The same draws for the same seed.
        start: First step; set it before iterating to resume.

    Raises:
        InputError: If a task has no rows, or sizes and weights name different tasks.

    Example:
        >>> sampler = TaskBlockSampler({"qa": 10, "tool": 10}, batch_size=2, steps=4, seed=1)
        >>> [{draw.task for draw in batch} for batch in sampler]
        [{'qa'}, {'tool'}, {'qa'}, {'tool'}]
    """

    def __init__(
        self,
        sizes: Mapping[str, int],
        batch_size: int | Mapping[str, int],
        steps: int,
        *,
        weights: Mapping[str, float] | None = None,
        batching: Batching = "homogeneous",
        rank: int = 0,
        world_size: int = 1,
        accumulation: int = 1,
        seed: int = 13,
        start: int = 0,
    ) -> None:
        shares = dict(weights) if weights is not None else {task: float(size) for task, size in sizes.items()}
        if not sizes or set(shares) != set(sizes):
            raise InputError(f"Sizes are for the tasks {sorted(sizes)}, weights for {sorted(shares)}; name the same.")
        empty = [task for task, size in sizes.items() if size < 1]
        if empty or min(shares.values()) <= 0:
            raise InputError(f"Every task needs rows and a weight above 0; {empty or shares} does not.")
        if batching not in ("homogeneous", "heterogeneous", "mixed"):
            raise InputError(f"Unknown batching {batching!r}; expected 'homogeneous', 'heterogeneous' or 'mixed'.")
        if isinstance(batch_size, Mapping) and (batching != "homogeneous" or set(batch_size) != set(sizes)):
            raise InputError("A batch size by task needs homogeneous batches and one for every task.")
        if not 0 <= rank < world_size or accumulation < 1 or steps < 0:
            raise InputError(f"No process {rank} of {world_size}, {accumulation} micro-batches, {steps} steps.")
        self.sizes = dict(sizes)
        total = sum(shares.values())
        self.shares = {task: shares[task] / total for task in self.sizes}
        self.batch_size = batch_size
        self.steps, self.batching, self.seed, self.start = steps, batching, seed, start
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self._streams = {task: _Stream(size, seed, number) for number, (task, size) in enumerate(self.sizes.items())}

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        seen = dict.fromkeys(self.sizes, 0)
        for step in range(self.steps):
            counts = self._counts(step, seen)
            if step >= self.start:
                block = self._block(step, counts, seen)
                size = len(block) // (self.accumulation * self.world_size)
                for micro in range(self.accumulation):
                    at = (micro * self.world_size + self.rank) * size
                    yield block[at : at + size]
            for task, count in counts.items():
                seen[task] += count

    def _counts(self, step: int, seen: Mapping[str, int]) -> dict[str, int]:
        """Rows of each task in a step's block."""
        if self.batching == "homogeneous":
            # The task that is furthest behind its share of steps takes its turn.
            steps = {task: seen[task] / self._block_size(task) for task in self.sizes}
            task = max(self.sizes, key=lambda name: self.shares[name] * (step + 1) - steps[name])
            return {task: self._block_size(task)}
        size = self._block_size("")
        if self.batching == "mixed":
            drawn = np.random.default_rng([self.seed, step, 1]).multinomial(size, list(self.shares.values()))
            return dict(zip(self.sizes, drawn.tolist(), strict=True))
        counts = dict.fromkeys(self.sizes, 0)
        for _ in range(size):  # each place goes to the task that is furthest behind its share of rows
            behind = max(self.sizes, key=lambda task: self.shares[task] * size * (step + 1) - seen[task] - counts[task])
            counts[behind] += 1
        return counts

    def _block_size(self, task: str) -> int:
        size = self.batch_size[task] if isinstance(self.batch_size, Mapping) else self.batch_size
        return size * self.world_size * self.accumulation

    def _block(self, step: int, counts: Mapping[str, int], seen: Mapping[str, int]) -> list[Draw]:
        block = [
            Draw(task, *self._streams[task][position])
            for task, count in counts.items()
            for position in range(seen[task], seen[task] + count)
        ]
        if self.batching != "homogeneous":  # so that every micro-batch gets its part of every task
            order = np.random.default_rng([self.seed, step, 2]).permutation(len(block))
            parts = self.world_size * self.accumulation
            dealt = [block[i::parts] for i in range(parts)] if self.batching == "heterogeneous" else None
            block = [draw for part in dealt for draw in part] if dealt is not None else [block[i] for i in order]
        return block


class _Stream:
    """A task's rows, shuffled anew each epoch, by position in an endless sequence."""

    def __init__(self, size: int, seed: int, number: int) -> None:
        self.size, self._seed = size, (seed, number)
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Row and epoch."""
        epoch, at = divmod(position, self.size)
        return int(self._order(epoch)[at]), epoch

    def _shuffled(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng([*self._seed, epoch]).permutation(self.size)
