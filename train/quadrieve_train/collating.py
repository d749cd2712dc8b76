"""From rows to the tensors of a batch: prefixed, deduplicated, sorted by length, with who is whose candidate."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from quadrieve import find_task

from .batching import Draw
from .recipes import Recipe
from .rows import Row, as_row


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What is put before a task's queries and candidates."""

    query: str = ""
    key: str = ""


def prefixes_of(task: str, recipe: Recipe) -> Prefixes:
    """The prefixes that a task is trained with under a recipe."""
    spec = recipe.tasks.get(task)
    if recipe.prefixes == "none" or (spec is not None and not spec.prefixes):
        return Prefixes()
    found = find_task(task)
    return Prefixes(found.query_prefix, found.key_prefix)


def draw_candidates(row: Row, size: int, seed: object) -> Row:
    """The row with at most `size` candidates: one labelled positive, if it has any, and others drawn at random.

    Rewards and qualities go with their candidates. Other labelled positives are only drawn where negatives are few.

    Example:
        >>> row = Row("qa", "Who?", pos=("a", "b"), neg=("c", "d", "e"), rewards=(5, 4, 3, 2, 1))
        >>> drawn = draw_candidates(row, 3, seed=0)
        >>> len(drawn.pos), len(drawn.neg), len(drawn.rewards)
        (1, 2, 3)
    """
    if len(row.candidates) <= size:
        return row
    draw = random.Random(str(seed))  # noqa: S311 - a seeded draw
    positives = list(range(len(row.pos)))
    negatives = list(range(len(row.pos), len(row.candidates)))
    draw.shuffle(positives)
    draw.shuffle(negatives)
    first = positives[:1]
    chosen = sorted((first + negatives + positives[1:])[:size])
    count = sum(i < len(row.pos) for i in chosen)
    candidates = [row.candidates[i] for i in chosen]
    return replace(
        row,
        pos=tuple(candidates[:count]),
        neg=tuple(candidates[count:]),
        rewards=tuple(row.rewards[i] for i in chosen) if row.rewards else (),
        qualities=tuple(row.qualities[i] for i in chosen) if row.qualities else (),
    )


class DrawnRows(torch.utils.data.Dataset[tuple[Draw, Row]]):
    """The rows of all tasks, fetched by `Draw`."""

    def __init__(self, rows: Mapping[str, Any]) -> None:
        self._rows = rows

    def __getitem__(self, draw: Draw) -> tuple[Draw, Row]:
        return draw, as_row(self._rows[draw.task][draw.row])


class Collator:
    """Makes a batch of drawn rows.

    Equal texts are encoded once. Texts are grouped by length, so that padding is small and a group fits into memory.

    Args:
        tokenizer: Of the encoder.
        prefixes: By task.
        candidates: Candidates a query, one number or one by task.
        query_tokens: Longest query, its prefix included; the end is cut.
        key_tokens: Longest candidate, likewise.
        group_tokens: Padded tokens in one group.
        seed: Of the candidates drawn.
    """

    def __init__(
        self,
        tokenizer: Any,
        prefixes: Mapping[str, Prefixes],
        *,
        candidates: int | Mapping[str, int] = 8,
        query_tokens: int = 256,
        key_tokens: int = 256,
        group_tokens: int = 8192,
        seed: int = 13,
    ) -> None:
        self.tokenizer = tokenizer
        self.prefixes = dict(prefixes)
        self.candidates = candidates if isinstance(candidates, Mapping) else dict.fromkeys(self.prefixes, candidates)
        self.seed = seed
        self.query_tokens, self.key_tokens, self.group_tokens = query_tokens, key_tokens, group_tokens
        self._numbers = {task: number for number, task in enumerate(self.prefixes)}

    def __call__(self, drawn: Sequence[tuple[Draw, Row]]) -> dict[str, Any]:
        """A batch: see the keys below; `B` queries, `K` different candidates, `M` a query.

        - `groups`, `order`: padded texts, and where each text (queries first, then candidates) stands in them;
        - `own` `[B, M]`: columns of a query's candidates, -1 for none; `rewards` `[B, M]`, NaN for none;
          `positives` `[B, M]`;
        - `hashes` `[K]` and `known` `[B, P]`: what the candidates are, and what is no negative for a query;
        - `tasks` `[B]` numbers of tasks; `names`: what the rows are called.
        """
        rows = [
            draw_candidates(row, self.candidates[draw.task], (self.seed, draw.task, draw.row, draw.epoch))
            for draw, row in drawn
        ]
        tasks = [draw.task for draw, _ in drawn]
        queries = [self.prefixes[task].query + row.query for task, row in zip(tasks, rows, strict=True)]
        columns: dict[str, int] = {}
        own = torch.full((len(rows), max(len(row.candidates) for row in rows)), -1, dtype=torch.long)
        rewards = torch.full(own.shape, torch.nan)
        positives = torch.zeros(own.shape, dtype=torch.bool)
        known: list[list[int]] = []
        for number, (row, (draw, whole)) in enumerate(zip(rows, drawn, strict=True)):
            prefix = self.prefixes[draw.task].key
            for place, text in enumerate(row.candidates):
                own[number, place] = columns.setdefault(prefix + text, len(columns))
            rewards[number, : len(row.rewards)] = torch.tensor(row.rewards)
            positives[number, : len(row.pos)] = True
            known.append([_hash(prefix + text) for text in whole.pos])
        groups, order = self.group([*queries, *columns], len(queries))
        return {
            "groups": groups,
            "order": order,
            "own": own,
            "rewards": rewards,
            "positives": positives,
            "hashes": torch.tensor([_hash(text) for text in columns]),
            "known": _padded(known),
            "tasks": torch.tensor([self._numbers[task] for task in tasks]),
            "names": [f"{draw.task}:{row.query_id or draw.row}" for row, (draw, _) in zip(rows, drawn, strict=True)],
        }

    def group(self, texts: Sequence[str], queries: int) -> tuple[list[dict[str, Tensor]], Tensor]:
        """Texts, the first `queries` of them queries, in padded groups; and where each stands in them, `[n]`."""
        ids: list[list[int]] = []
        for part, limit in ((texts[:queries], self.query_tokens), (texts[queries:], self.key_tokens)):
            if not part:
                continue
            ids += self.tokenizer(
                list(part), truncation=True, max_length=limit, padding=False, return_attention_mask=False, verbose=False
            )["input_ids"]
        by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
        groups: list[dict[str, Tensor]] = []
        at = len(by_length)
        while at:
            width = len(ids[by_length[at - 1]])
            members = by_length[max(0, at - max(1, self.group_tokens // width)) : at]
            at -= len(members)
            groups.append(_pad([ids[i] for i in members], self.tokenizer.pad_token_id or 0))
        groups.reverse()
        order = torch.empty(len(ids), dtype=torch.long)
        order[torch.tensor(by_length)] = torch.arange(len(ids))
        return groups, order


def _pad(ids: Sequence[Sequence[int]], pad: int) -> dict[str, Tensor]:
    width = max(len(row) for row in ids)
    padded = torch.tensor([[*row, *[pad] * (width - len(row))] for row in ids])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
    return {"input_ids": padded, "attention_mask": mask}


def _padded(rows: Sequence[Sequence[int]]) -> Tensor:
    """`[B, P]`, 0 where there is nothing; no hash is 0."""
    width = max(1, *(len(row) for row in rows)) if rows else 1
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1 | 1
