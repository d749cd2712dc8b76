"""QuadrieveExampleSelector: solved examples in a template that LlamaIndex formats more often than one would think."""

from collections.abc import Iterator
from typing import Any

import pytest
from llama_index.core.llms import MockLLM
from llama_index.core.prompts import RichPromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from tests.core.conftest import HashingEmbedder

from llama_index_quadrieve import QuadrieveExampleSelector, QuadrieveRetriever
from quadrieve import Example, ExampleBank, InputError, KnowledgeBase

TEMPLATE = "{{ examples }}\n\nContext: {{ context_str }}\nInput: {{ query_str }}\nOutput:"


class Bank(ExampleBank):
    """A bank that keeps what it was asked."""

    asked: list[Any]

    def select(self, input: Any, *args: Any, **options: Any) -> list[Example]:
        self.asked.append(input)
        return super().select(input, *args, **options)


@pytest.fixture
def bank(hashing: HashingEmbedder) -> Iterator[Bank]:
    with Bank.open(None, embedder=hashing) as bank:
        bank.asked = []
        bank.add("The soup was cold.", "bad", task="review")
        bank.add("Best pie in town!", "good", task="review")
        bank.add("the pizza cold", {"tool": "refund"}, task="call")
        yield bank


def test_examples_come_nearest_last(bank: Bank) -> None:
    selector = QuadrieveExampleSelector(bank, task="review")
    assert selector(query_str="Was the pizza cold?") == (
        "Input: Best pie in town!\nOutput: good\n\nInput: The soup was cold.\nOutput: bad"
    )
    assert QuadrieveExampleSelector(bank, 1)(query_str="Is the pizza cold?").endswith('Output: {"tool":"refund"}')


async def test_a_query_engine_searches_once_for_a_query(bank: Bank, hashing: HashingEmbedder) -> None:
    """It formats the template three times a query, twice of these with nothing in it, to see how much room is left."""
    calls: list[str] = []
    selector = QuadrieveExampleSelector(bank, 1, task="review")

    def counted(**variables: Any) -> str:
        calls.append(variables["query_str"])
        return selector(**variables)

    kb = KnowledgeBase.open(None, embedder=hashing)
    kb.add(["Cold pizza is sent back to the kitchen."])
    template = RichPromptTemplate(TEMPLATE, function_mappings={"examples": counted})
    engine = RetrieverQueryEngine.from_args(QuadrieveRetriever(kb, 1), llm=MockLLM(), text_qa_template=template)
    for response in (engine.query("The pizza was cold."), await engine.aquery("The pizza was cold.")):
        assert "Input: The soup was cold.\nOutput: bad\n\nContext: Cold pizza" in str(response)
    assert "" in calls
    assert len(calls) > 2
    assert bank.asked == ["The pizza was cold."]


@pytest.mark.parametrize("nothing", ["", "  ", "\n"])
def test_nothing_asked_gives_no_examples_and_searches_nothing(bank: Bank, nothing: str) -> None:
    assert QuadrieveExampleSelector(bank)(query_str=nothing) == ""
    assert bank.asked == []


def test_what_is_cached_is_gone_when_the_examples_change(bank: Bank) -> None:
    selector = QuadrieveExampleSelector(bank, 1, task="review")
    assert selector(query_str="the cold pizza") == "Input: The soup was cold.\nOutput: bad"
    bank.add("The cold pizza", "sad", task="review")
    assert selector(query_str="the cold pizza") == "Input: The cold pizza\nOutput: sad"


def test_one_template_serves_any_number_of_queries_and_keeps_its_bank(bank: Bank) -> None:
    template = RichPromptTemplate(TEMPLATE, function_mappings={"examples": QuadrieveExampleSelector(bank, 1)})
    partial = template.partial_format(context_str="")
    assert "soup" in partial.format(query_str="a cold soup")
    assert "pie" in partial.format(query_str="pie in town")
    assert len(bank.asked) == 2


def test_other_variables_and_values_can_be_asked_with(bank: Bank) -> None:
    selector = QuadrieveExampleSelector(bank, 1, input_key="case", render=lambda example: f"<{example.output}>")
    assert selector(case={"text": "Best pie in town!"}) == "<good>"
    with pytest.raises(InputError, match="no variable 'case', only query_str"):
        selector(query_str="pie")


def test_a_budget_leaves_the_farthest_out(bank: Bank) -> None:
    for tokens, examples in ((1, []), (8, ["good"]), (16, ["bad", "good"])):
        selector = QuadrieveExampleSelector(bank, task="review", max_tokens=tokens, render=lambda e: str(e.output))
        assert selector(query_str="best pie").split() == examples
