"""Examples: solved cases that show the language model how the next one is solved."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from .embedder import EmbedderLike, OnLong, check_text
from .errors import InputError
from .index import Hit, Index, Record
from .index.filters import all_of, read_filter
from .index.location import Location
from .index.ranking import Mode
from .index.records import canonical_json, check_metadata, content_id
from .role_store import FilteredStore
from .roles import Role

CountTokens = Callable[[str], int]


@dataclass(frozen=True)
class Example:
    """A solved case.

    Attributes:
        input: What was asked: any JSON value.
        output: What was right: any JSON value.
        task: The kind of case, or None.
        id: The record's id.
        score: Cosine similarity with the new case in [-1, 1].
        metadata: What was stored with it.
        why: Which ranker found it at which rank.
    """

    input: Any
    output: Any
    task: str | None = None
    id: str = ""
    score: float = 0.0
    metadata: Mapping[str, Any] = field(default_factory=dict)
    why: Mapping[str, Any] = field(default_factory=dict)


class ExampleBank(FilteredStore):
    """Solved cases, found by how much they are like the new one.

    Example:
        >>> from quadrieve import Embedder, ExampleBank
        >>> bank = ExampleBank.open(None, embedder=Embedder.load())
        >>> _ = bank.add("The soup was cold.", "bad", task="review")
        >>> _ = bank.add("Best pie in town!", "good", task="review")
        >>> [example.output for example in bank.select("My pizza came cold.", k=2)]  # nearest last
        ['good', 'bad']
    """

    role: ClassVar[Role] = Role.EXAMPLE

    def __init__(self, index: Index, count_tokens: CountTokens | None = None) -> None:
        super().__init__(index)
        self.count_tokens = count_tokens or estimate_tokens

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        embedder: EmbedderLike,
        name: str = "default",
        task: str | None = None,
        on_long: OnLong | None = None,
        count_tokens: CountTokens | None = None,
    ) -> Self:
        """Open an example bank, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: The embedder that it was made with.
            name: Tells several banks of one location apart.
            task: The embedder's task: `icl` (the default), or a registered task of the role example.
            on_long: What to do with texts longer than the model reads: see `RoleView.embed_keys`.
            count_tokens: Counts tokens as the reading language model does; None estimates four bytes a token.

        Raises:
            StoreError: If the location holds something else (`FingerprintError`: another embedder's index).
        """
        return cls(cls._open_index(location, embedder, name, task, on_long), count_tokens)

    def add(
        self, input: Any, output: Any, task: str | None = None, *, metadata: Mapping[str, Any] | None = None
    ) -> str:
        """Store a solved case and return its id; adding the same again changes nothing."""
        return self.add_many([Example(input, output, task, metadata=metadata or {})])[0]

    def add_many(self, examples: Sequence[Example], *, progress: bool = False) -> list[str]:
        """Store solved cases, encoded together; returns their ids.

        Raises:
            InputError: If an input, output or metadata is not JSON, or the list is empty.
        """
        if not examples:
            raise InputError("Expected at least one example, got an empty list.")
        return self.index.write([_record(example) for example in examples], progress=progress)

    def select(
        self,
        input: Any,
        k: int = 8,
        task: str | None = None,
        max_tokens: int | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        diversity: float | None = None,
    ) -> list[Example]:
        """The k cases most like the new one, nearest last, as a prompt wants them.

        Args:
            input: The new case: any JSON value.
            k: How many at most.
            task: Only cases of this kind.
            max_tokens: What they may take together; the farthest are left out first.
            where: Filter on metadata.
            mode: How to rank: see `KnowledgeBase.search`.
            min_score: Only cases with at least this cosine similarity.
            diversity: From 0 to 1: how much a case's likeness to those before it counts against it (MMR).
        """
        if max_tokens is not None and max_tokens < 0:
            raise InputError(f"max_tokens must not be negative, got {max_tokens}.")
        of_task = None if task is None else read_filter({"task": task})
        filter = all_of(of_task, read_filter(where))
        hits = self.index.search(
            as_text(input, "The input"), k, filter=filter, mode=mode, min_score=min_score, diversity=diversity
        )
        chosen: list[Example] = []
        left: float = math.inf if max_tokens is None else max_tokens
        for hit in hits:
            left -= self.count_tokens(hit.text)
            if left < 0:
                break
            chosen.append(_example(hit))
        return chosen[::-1]


def estimate_tokens(text: str) -> int:
    """Tokens of a text, guessed at four bytes each.

    Example:
        >>> estimate_tokens("four byte")
        3
    """
    return -(-len(text.encode()) // 4)


def as_text(value: Any, name: str) -> str:
    """A string as it is, any other JSON value as its JSON."""
    return check_text(value, name) if isinstance(value, str) else canonical_json(value, name)


def _record(example: Example) -> Record:
    if example.task is not None:
        check_text(example.task, "The task of an example")
    metadata = check_metadata(example.metadata)
    if metadata.get("task", example.task) != example.task:
        raise InputError("The metadata key 'task' is the example's own; use the argument task.")
    if example.task is not None:
        metadata["task"] = example.task
    text = f"{as_text(example.input, 'The input')}\n{as_text(example.output, 'The output')}"
    payload = {"input": example.input, "output": example.output}
    return Record(content_id(metadata, payload), text, metadata, payload)


def _example(hit: Hit) -> Example:
    own = dict(hit.metadata)
    task = own.pop("task", None)
    return Example(hit.payload["input"], hit.payload["output"], task, hit.id, hit.score, own, hit.why)
