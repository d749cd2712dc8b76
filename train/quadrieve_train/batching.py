"""Which rows a step sees: one task or source at a time over all processes, all tasks at once, or whatever comes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from quadrieve.errors import InputError

Batching = Literal["homogeneous", "source", "heterogeneous", "mixed"]

#: Those whose blocks are of one task, so that tasks may have batches of different sizes.
ONE_TASK: tuple[Batching, ...] = ("homogeneous", "source")


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
    - `source`: a block is of one source of one task, so that its negatives are candidates of the same collection.
      Within a task, a source's share of the steps is what `shares` says, or goes with the square root of its rows, so
      that small ones are heard.
    - `heterogeneous`: every block holds each task's share of rows.
    - `mixed`: every row of a block is of a task drawn by its share.

    Args:
        sizes: Number of rows by task.
        batch_size: Queries in a micro-batch of one process; or by task (homogeneous and source batches only).
        steps: Optimizer steps.
        weights: Share of the steps (or rows) by task; None for the number of rows.
        batching: One of the four.
        rank: This process.
        world_size: All processes.
        accumulation: Micro-batches in an optimizer step.
        seed: The same draws for the same seed.
        start: First step; set it before iterating to resume.
        sources: By task, the source of each row; only `source` batches ask for it, and a task that is not named is one.
        shares: By task, the share of its steps that each source gets.

    Raises:
        InputError: If a task has no rows, sizes and weights name different tasks, or a source has no share above 0.

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
        sources: Mapping[str, Sequence[str]] | None = None,
        shares: Mapping[str, Mapping[str, float]] | None = None,
    ) -> None:
        given = dict(weights) if weights is not None else {task: float(size) for task, size in sizes.items()}
        if not sizes or set(given) != set(sizes):
            raise InputError(f"Sizes are for the tasks {sorted(sizes)}, weights for {sorted(given)}; name the same.")
        empty = [task for task, size in sizes.items() if size < 1]
        if empty or min(given.values()) <= 0:
            raise InputError(f"Every task needs rows and a weight above 0; {empty or given} does not.")
        if batching not in get_args(Batching):
            raise InputError(f"Unknown batching {batching!r}; expected one of {', '.join(get_args(Batching))}.")
        self._one_task = batching in ONE_TASK
        if isinstance(batch_size, Mapping) and (not self._one_task or set(batch_size) != set(sizes)):
            raise InputError("A batch size by task needs homogeneous or source batches and one for every task.")
        if not 0 <= rank < world_size or accumulation < 1 or steps < 0:
            raise InputError(f"No process {rank} of {world_size}, {accumulation} micro-batches, {steps} steps.")
        self.sizes = dict(sizes)
        total = sum(given.values())
        labels = (sources or {}) if batching == "source" else {}
        self._parts = [
            part
            for task, size in self.sizes.items()
            for part in _parts(task, given[task] / total, size, labels.get(task), (shares or {}).get(task))
        ]
        self.batch_size = batch_size
        self.steps, self.batching, self.seed, self.start = steps, batching, seed, start
        self.rank, self.world_size, self.accumulation = rank, world_size, accumulation
        self._streams = [_Stream(len(part.rows), seed, number) for number, part in enumerate(self._parts)]

    def __len__(self) -> int:
        return (self.steps - self.start) * self.accumulation

    def __iter__(self) -> Iterator[list[Draw]]:
        seen = [0] * len(self._parts)
        for step in range(self.steps):
            counts = self._counts(step, seen)
            if step >= self.start:
                block = self._block(step, counts, seen)
                size = len(block) // (self.accumulation * self.world_size)
                for micro in range(self.accumulation):
                    at = (micro * self.world_size + self.rank) * size
                    yield block[at : at + size]
            seen = [before + count for before, count in zip(seen, counts, strict=True)]

    def _counts(self, step: int, seen: Sequence[int]) -> list[int]:
        """Rows of each part in a step's block."""
        counts = [0] * len(self._parts)
        if self._one_task:
            # The part that is furthest behind its share of steps takes its turn.
            sizes = [self._block_size(part.task) for part in self._parts]
            behind = [
                part.share * (step + 1) - rows / size for part, rows, size in zip(self._parts, seen, sizes, strict=True)
            ]
            turn = behind.index(max(behind))
            counts[turn] = sizes[turn]
            return counts
        size = self._block_size("")
        if self.batching == "mixed":
            drawn = np.random.default_rng([self.seed, step, 1]).multinomial(size, [part.share for part in self._parts])
            return list(map(int, drawn))
        for _ in range(size):  # each place goes to the task that is furthest behind its share of rows
            behind = [
                part.share * size * (step + 1) - rows - count
                for part, rows, count in zip(self._parts, seen, counts, strict=True)
            ]
            counts[behind.index(max(behind))] += 1
        return counts

    def _block_size(self, task: str) -> int:
        size = self.batch_size[task] if isinstance(self.batch_size, Mapping) else self.batch_size
        return size * self.world_size * self.accumulation

    def _block(self, step: int, counts: Sequence[int], seen: Sequence[int]) -> list[Draw]:
        block = []
        for part, stream, first, count in zip(self._parts, self._streams, seen, counts, strict=True):
            for position in range(first, first + count):
                row, epoch = stream[position]
                block.append(Draw(part.task, part.rows[row], epoch))
        if not self._one_task:  # so that every micro-batch gets its part of every task
            order = np.random.default_rng([self.seed, step, 2]).permutation(len(block))
            parts = self.world_size * self.accumulation
            dealt = [block[i::parts] for i in range(parts)] if self.batching == "heterogeneous" else None
            block = [draw for part in dealt for draw in part] if dealt is not None else [block[i] for i in order]
        return block


@dataclass(frozen=True, slots=True)
class _Part:
    """What takes turns: a task, or a source of one."""

    task: str
    share: float
    rows: Sequence[int]


def _parts(
    task: str, share: float, size: int, sources: Sequence[str] | None, shares: Mapping[str, float] | None
) -> list[_Part]:
    if sources is None:
        return [_Part(task, share, range(size))]
    rows = {name: [i for i, source in enumerate(sources) if source == name] for name in dict.fromkeys(sources)}
    own = {name: math.sqrt(len(found)) if shares is None else shares.get(name, 0.0) for name, found in rows.items()}
    if min(own.values()) <= 0:
        raise InputError(f"Every source of {task!r} needs a share above 0; got {own}.")
    total = sum(own.values())
    return [_Part(task, share * own[name] / total, found) for name, found in rows.items()]


class _Stream:
    """A part's rows, shuffled anew each epoch, by position in an endless sequence."""

    def __init__(self, size: int, seed: int, number: int) -> None:
        self.size, self._seed = size, (seed, number)
        self._order = lru_cache(maxsize=4)(self._shuffled)

    def __getitem__(self, position: int) -> tuple[int, int]:
        """Row and epoch."""
        epoch, at = divmod(position, self.size)
        return int(self._order(epoch)[at]), epoch

    def _shuffled(self, epoch: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        return np.random.default_rng([*self._seed, epoch]).permutation(self.size)
