"""An example bank as a LangChain example selector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from langchain_core.example_selectors import BaseExampleSelector
from langchain_core.runnables.config import run_in_executor

from quadrieve import EmbedderLike, Example, ExampleBank, InputError
from quadrieve.index.location import Location
from quadrieve.index.ranking import Mode


class QuadrieveExampleSelector(BaseExampleSelector):
    """The solved cases most like the new one, nearest last, for LangChain's few-shot prompts.

    An example is a dict of JSON: its input and output keys are encoded, every other key can be filtered on.
    Adding one that is there changes nothing.

    Example:
        >>> from quadrieve import Embedder
        >>> examples = [
        ...     {"input": "The soup was cold.", "output": "bad", "lang": "en"},
        ...     {"input": "Best pie in town!", "output": "good", "lang": "en"},
        ... ]
        >>> selector = QuadrieveExampleSelector.from_examples(examples, embedder=Embedder.load(), k=1)
        >>> selector.select_examples({"input": "My pizza came cold."})
        [{'input': 'The soup was cold.', 'output': 'bad', 'lang': 'en'}]
    """

    def __init__(
        self,
        example_bank: ExampleBank,
        *,
        k: int = 4,
        input_keys: Sequence[str] = ("input",),
        output_keys: Sequence[str] = ("output",),
        where: Mapping[str, Any] | None = None,
        mode: Mode = "hybrid",
        min_score: float | None = None,
        diversity: float | None = None,
        max_tokens: int | None = None,
    ) -> None:
        """Say what of an example is asked, what is answered, and which to choose.

        Args:
            example_bank: Where examples lie.
            k: How many at most.
            input_keys: The keys of a case; a new case is compared by these alone.
            output_keys: The keys of its solution.
            where: Filter on the other keys, as `ExampleBank.select` takes it.
            mode: How to rank: `hybrid`, `dense` or `lexical`.
            min_score: Only examples with at least this cosine similarity.
            diversity: From 0 to 1: how much an example's likeness to those before it counts against it (MMR).
            max_tokens: What they may take together.

        Raises:
            InputError: If a key is input and output at once, or there is none.
        """
        if isinstance(input_keys, str) or isinstance(output_keys, str) or not input_keys or not output_keys:
            raise InputError(f"input_keys and output_keys are lists of keys, got {input_keys!r} and {output_keys!r}.")
        if set(input_keys) & set(output_keys):
            raise InputError(f"{sorted(set(input_keys) & set(output_keys))} are input and output keys at once.")
        self.example_bank = example_bank
        self.input_keys = tuple(input_keys)
        self.output_keys = tuple(output_keys)
        self.k = k
        self.where = where
        self.mode: Mode = mode
        self.min_score = min_score
        self.diversity = diversity
        self.max_tokens = max_tokens

    @classmethod
    def from_examples(
        cls,
        examples: Iterable[Mapping[str, Any]],
        *,
        embedder: EmbedderLike,
        location: Location = None,
        name: str = "default",
        **settings: Any,
    ) -> Self:
        """Open a location's example bank and add examples to it, encoded together.

        Args:
            examples: Dicts of JSON.
            embedder: The embedder that the bank was made with.
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            name: Tells several banks of one location apart.
            settings: The selector's own.

        Raises:
            InputError: If an example lacks a key, or is not JSON.
        """
        selector = cls(ExampleBank.open(location, embedder=embedder, name=name), **settings)
        solved = [selector._solved(example) for example in examples]
        if solved:
            selector.example_bank.add_many(solved)
        return selector

    @classmethod
    async def afrom_examples(
        cls,
        examples: Iterable[Mapping[str, Any]],
        *,
        embedder: EmbedderLike,
        location: Location = None,
        name: str = "default",
        **settings: Any,
    ) -> Self:
        """`from_examples` in a thread."""
        return await run_in_executor(
            None, cls.from_examples, examples, embedder=embedder, location=location, name=name, **settings
        )

    def add_example(self, example: Mapping[str, Any]) -> str:
        """Add an example; returns its id.

        Raises:
            InputError: If it lacks a key, or is not JSON.
        """
        return self.example_bank.add_many([self._solved(example)])[0]

    async def aadd_example(self, example: Mapping[str, Any]) -> str:
        """`add_example` in a thread."""
        return await run_in_executor(None, self.add_example, example)

    def select_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The examples most like a new case, nearest last; variables that are no input keys are not looked at.

        Raises:
            InputError: If the new case lacks an input key.
        """
        case = _values(input_variables, self.input_keys, "The new case")
        chosen = self.example_bank.select(
            case,
            self.k,
            max_tokens=self.max_tokens,
            where=self.where,
            mode=self.mode,
            min_score=self.min_score,
            diversity=self.diversity,
        )
        return [self._example(example) for example in chosen]

    async def aselect_examples(self, input_variables: Mapping[str, Any]) -> list[dict[str, Any]]:
        """`select_examples` in a thread."""
        return await run_in_executor(None, self.select_examples, input_variables)

    def _solved(self, example: Mapping[str, Any]) -> Example:
        rest = {key: value for key, value in example.items() if key not in self.input_keys + self.output_keys}
        task = rest.pop("task", None)
        given, solution = (_values(example, keys, "An example") for keys in (self.input_keys, self.output_keys))
        return Example(given, solution, task, metadata=rest)

    def _example(self, found: Example) -> dict[str, Any]:
        task = {} if found.task is None else {"task": found.task}
        return {
            **_named(found.input, self.input_keys),
            **_named(found.output, self.output_keys),
            **task,
            **found.metadata,
        }


def _values(mapping: Mapping[str, Any], keys: Sequence[str], name: str) -> Any:
    """The value of the one key, or a dict of several."""
    missing = [key for key in keys if key not in mapping]
    if missing:
        raise InputError(
            f"{name} has no {', '.join(map(repr, missing))}, only {', '.join(map(repr, mapping))}; "
            "say which keys it has with input_keys=… and output_keys=…."
        )
    return mapping[keys[0]] if len(keys) == 1 else {key: mapping[key] for key in keys}


def _named(value: Any, keys: Sequence[str]) -> dict[str, Any]:
    return {keys[0]: value} if len(keys) == 1 else dict(value)
