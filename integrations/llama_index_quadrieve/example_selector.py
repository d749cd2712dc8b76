"""Solved examples in a prompt template."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, Self

from quadrieve import Example, ExampleBank, InputError
from quadrieve.examples import as_text


def render_example(example: Example) -> str:
    r"""An example as the lines `Input: …` and `Output: …`.

    Example:
        >>> render_example(Example("2 + 2", 4))
        'Input: 2 + 2\nOutput: 4'
    """
    return f"Input: {as_text(example.input, 'The input')}\nOutput: {as_text(example.output, 'The output')}"


class QuadrieveExampleSelector:
    r"""A function for `RichPromptTemplate(function_mappings={…})` that writes the examples nearest to the query.

    LlamaIndex calls such a function several times for one query, with empty variables among them, to measure
    the prompt: an empty query gives no examples, and a query that was asked before is not searched again until
    the number of examples changes.

    Args:
        bank: Where the examples are.
        k: How many at most.
        task: Only examples of this kind.
        max_tokens: What they may take together; the farthest are left out first.
        where: Filter on metadata.
        min_score: Only examples with at least this cosine similarity.
        input_key: The template variable that holds the new case.
        render: Writes one example.
        separator: Goes between examples.
        cache_size: How many queries' examples are kept.

    Example:
        >>> from llama_index.core.prompts import RichPromptTemplate
        >>> from quadrieve import Embedder
        >>> from llama_index_quadrieve import QuadrieveExampleSelector
        >>> bank = ExampleBank.open(None, embedder=Embedder.load())
        >>> _ = bank.add("The soup was cold.", "bad"), bank.add("Best pie in town!", "good")
        >>> examples = QuadrieveExampleSelector(bank, k=1)
        >>> prompt = RichPromptTemplate("{{ examples }}\n\nInput: {{ query_str }}\nOutput:",
        ...                             function_mappings={"examples": examples})
        >>> print(prompt.format(query_str="My pizza came cold."))
        Input: The soup was cold.
        Output: bad
        <BLANKLINE>
        Input: My pizza came cold.
        Output:
    """

    def __init__(
        self,
        bank: ExampleBank,
        k: int = 8,
        task: str | None = None,
        max_tokens: int | None = None,
        *,
        where: Mapping[str, Any] | None = None,
        min_score: float | None = None,
        input_key: str = "query_str",
        render: Callable[[Example], str] = render_example,
        separator: str = "\n\n",
        cache_size: int = 128,
    ) -> None:
        self.bank = bank
        self.k = k
        self.task = task
        self.max_tokens = max_tokens
        self.where = where
        self.min_score = min_score
        self.input_key = input_key
        self.render = render
        self.separator = separator
        self.__name__ = type(self).__name__  # a template writes the names of its functions when it is serialised
        self._cached = lru_cache(cache_size)(self._write)

    def __call__(self, **variables: Any) -> str:
        """The examples for a template's variables, nearest last.

        Raises:
            InputError: If the template has no variable `input_key`.
        """
        if self.input_key not in variables:
            raise InputError(
                f"The template has no variable {self.input_key!r}, only {', '.join(variables) or 'none'}; name the "
                "one that holds the new case with input_key=…."
            )
        asked = variables[self.input_key]
        text = asked if isinstance(asked, str) else as_text(asked, self.input_key)
        return self._cached(text, self.bank.count()) if text.strip() else ""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """Itself: templates copy their functions at every query, and a store is not to be copied."""
        return self

    def select(self, input: Any) -> list[Example]:
        """The examples for a new case, nearest last."""
        return self.bank.select(input, self.k, self.task, self.max_tokens, where=self.where, min_score=self.min_score)

    def _write(self, text: str, _count: int) -> str:
        return self.separator.join(map(self.render, self.select(text)))
