"""Evaluation sets: queries of a split, what each may find and what it should."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadrieve import Role, find_task
from quadrieve.errors import InputError

from ..errors import LeakError
from ..rows import Collection, Query, read_collection, read_rows

Columns = NDArray[np.int64]
_NO_ROWS: Columns = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class EvalSet:
    """Queries against a corpus, in one role.

    Attributes:
        name: Name of the set.
        task: Name of the task that its texts are embedded with.
        collection: The corpus.
        queries: The queries that are asked, those without positives too where a language model judges.
    """

    name: str
    task: str
    collection: Collection
    queries: tuple[Query, ...]

    @property
    def role(self) -> Role:
        """The role of the task."""
        return find_task(self.task).role

    @property
    def conversations(self) -> frozenset[str | None]:
        """The conversations that are asked about."""
        return frozenset(query.conversation for query in self.queries)

    def scope(self, conversation: str | None) -> Columns:
        """Rows of the corpus that belong to a conversation, or all where there are none."""
        return self._scopes.get(conversation if self.collection.places is not None else None, _NO_ROWS)

    @cached_property
    def findable(self) -> Columns:
        """Rows of the corpus that some query may find: those of its conversation, in order."""
        return np.unique(np.concatenate([_NO_ROWS, *map(self.scope, self.conversations)]))

    def visible(self, query: Query) -> Columns:
        """Rows of the corpus that a query may find: in a conversation, only what was said before it."""
        rows, places = self.scope(query.conversation), self.collection.places
        if places is None or query.turn is None:
            return rows
        return np.array([i for i in rows if places[i][1] < query.turn], dtype=np.int64)

    @cached_property
    def _scopes(self) -> Mapping[str | None, Columns]:
        if self.collection.places is None:
            return {None: np.arange(len(self.collection.ids), dtype=np.int64)}
        members: dict[str | None, list[int]] = {}
        for i, (conversation, _) in enumerate(self.collection.places):
            members.setdefault(conversation, []).append(i)
        return {conversation: np.array(rows, dtype=np.int64) for conversation, rows in members.items()}


def shrink(evaluated: EvalSet, queries: int | None, keys: int | None, seed: int = 13) -> EvalSet:
    """A smaller set: queries drawn at random, over their positives and other texts drawn at random.

    Conversations stay whole: they are taken one after the other until there are enough queries.

    Args:
        evaluated: The set.
        queries: How many; None for all.
        keys: How many texts, positives always among them; None for all.
        seed: Of the draws.
    """
    collection = evaluated.collection
    if queries is None and keys is None:
        return evaluated
    draw = random.Random(seed)  # noqa: S311 - a seeded draw
    limit = len(evaluated.queries) if queries is None else min(queries, len(evaluated.queries))
    if collection.places is not None:
        by_conversation = sorted(evaluated.queries, key=lambda query: str(query.conversation))[:limit]
        asked = {query.conversation for query in by_conversation}
        chosen, kept = by_conversation, [i for i, place in enumerate(collection.places) if place[0] in asked]
    else:
        chosen = [evaluated.queries[i] for i in sorted(draw.sample(range(len(evaluated.queries)), limit))]
        needed = {identity for query in chosen for identity in query.positives}
        others = [i for i, identity in enumerate(collection.ids) if identity not in needed]
        more = len(others) if keys is None else max(0, min(len(others), keys - len(needed)))
        drawn = set(draw.sample(others, more))
        kept = [i for i, identity in enumerate(collection.ids) if identity in needed or i in drawn]
    small = replace(
        collection,
        ids=tuple(collection.ids[i] for i in kept),
        texts=tuple(collection.texts[i] for i in kept),
        titles=tuple(collection.titles[i] for i in kept),
        places=None if collection.places is None else tuple(collection.places[i] for i in kept),
        queries=tuple(chosen),
    )
    return replace(evaluated, collection=small, queries=tuple(chosen))


def spread(count: int, limit: int | None) -> list[int]:
    """Places of at most `limit` of `count` queries, spread over all of them, as sets are often sorted by task.

    Example:
        >>> spread(10, 3), spread(7, 4)
        ([0, 3, 6], [0, 1, 3, 5])
    """
    taken = min(count, limit or count)
    return [place * count // taken for place in range(taken)]


def read_set(folder: Path, *, task: str | None = None, split: str = "test", queries: int | None = None) -> EvalSet:
    """An evaluation set from a folder with `corpus.jsonl` and `queries.jsonl`.

    Args:
        folder: The folder.
        task: Its task or role; None for the `role` that its `info.json` names, or memory where queries belong to
            conversations.
        split: Which queries.
        queries: The first that many; None for all.

    Raises:
        InputError: If the folder cannot be read, its role is not known, or the split has no queries.
    """
    collection = read_collection(folder)
    info = folder / "info.json"
    named = task or (json.loads(info.read_text(encoding="utf-8")).get("role") if info.is_file() else None)
    if named is None and collection.places is not None:
        named = Role.MEMORY.value
    if named is None:
        raise InputError(f'{folder} does not say its role; write it into info.json as {{"role": "knowledge"}}.')
    chosen = collection.split(split)[:queries]
    if not chosen:
        raise InputError(f"{folder} has no queries of the split {split!r}.")
    return EvalSet(folder.name, find_task(named).name, collection, tuple(chosen))


def read_paper_rows(path: Path, task: str | None = None, *, queries: int | None = None) -> EvalSet:
    """An evaluation set from rows in the paper's JSONL: the corpus is all candidates of its rows.

    Raises:
        InputError: If the file cannot be read, or holds rows of several tasks.
    """
    from ..rows import as_row

    rows = [as_row(record) for record in read_rows(path, task, streaming=True)][:queries]
    tasks = {row.task for row in rows}
    if len(tasks) != 1:
        raise InputError(f"{path} must hold rows of one task, it has {', '.join(sorted(tasks)) or 'none'}.")
    own = find_task(next(iter(tasks)))
    texts: dict[tuple[int | None, str], int] = {}
    asked = []
    bound = own.role is Role.MEMORY  # every row brings its own history
    for number, row in enumerate(rows):
        scope = number if bound else None
        for text in row.candidates:
            texts.setdefault((scope, text), len(texts))
        asked.append(
            Query(
                id=row.query_id or str(number),
                text=row.query,
                answers=row.answers,
                positives=tuple(str(texts[scope, text]) for text in row.pos),
                split="test",
                choices=row.choices,
                conversation=str(number) if bound else None,
                turn=None,
                meta={"context": row.context},
            )
        )
    places = tuple((str(scope), at) for (scope, _), at in texts.items()) if bound else None
    collection = Collection(
        path.stem,
        tuple(map(str, texts.values())),
        tuple(text for _, text in texts),
        ("",) * len(texts),
        places,
        tuple(asked),
    )
    return EvalSet(path.stem, own.name, collection, tuple(asked))


def check_no_leak(evaluated: EvalSet, rows: Iterable[tuple[str, Sequence[str]]], source: str) -> None:
    """Refuse to measure on what was trained on: the same question about the same texts.

    Args:
        evaluated: The set.
        rows: Query and positive texts of every training row.
        source: What the rows are called.

    Raises:
        LeakError: If a query of the set is a training query, names the first.
    """
    trained: dict[str, set[str]] = {}
    unlabelled: set[str] = set()
    for query, positives in rows:
        key = _normal(query)
        trained.setdefault(key, set()).update(map(_normal, positives))
        if not positives:
            unlabelled.add(key)
    place = {identity: i for i, identity in enumerate(evaluated.collection.ids)}
    for asked in evaluated.queries:
        key = _normal(asked.text)
        own = {_normal(evaluated.collection.texts[place[identity]]) for identity in asked.positives}
        if key in unlabelled or (key in trained and (not own or own & trained[key])):
            raise LeakError(
                f"The query {asked.id!r} of {evaluated.name} is in the training rows of {source}; evaluate on queries "
                "that were not trained on."
            )


def training_queries(collection: Collection) -> Iterable[tuple[str, Sequence[str]]]:
    """Query and positive texts of a collection's training split."""
    place: dict[str, int] = {identity: i for i, identity in enumerate(collection.ids)}
    for query in collection.split("train"):
        yield query.text, [collection.texts[place[identity]] for identity in query.positives]


def row_queries(dataset: Any) -> Iterable[tuple[str, Sequence[str]]]:
    """Query and positive texts of a dataset of rows."""
    return zip(dataset["query"], dataset["pos"], strict=True)


def _normal(text: str) -> str:
    return " ".join(text.lower().split())
