"""Solved cases reach LangChain's few-shot prompts, whatever their keys and values are."""

from __future__ import annotations

import pytest
from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate

from langchain_quadrieve import QuadrieveExampleSelector
from quadrieve import ExampleBank, InputError

EXAMPLES = [
    {"input": "The soup was cold.", "output": "bad", "lang": "en", "stars": 1},
    {"input": "Best pie in town!", "output": "good", "lang": "en", "stars": 5},
    {"input": "Die Suppe war kalt.", "output": "bad", "lang": "de", "stars": 1},
    {"input": "The soup was not warm.", "output": "bad", "lang": "en", "stars": 2},
]
CASE = {"input": "My soup came cold."}


@pytest.fixture
def selector_of(embedder):
    return lambda examples=EXAMPLES, **options: QuadrieveExampleSelector.from_examples(
        examples, embedder=embedder, **options
    )


def test_the_nearest_example_comes_last_and_is_whole(selector_of):
    selector = selector_of(k=2)
    assert selector.select_examples(CASE) == [EXAMPLES[3], EXAMPLES[0]]


async def test_it_works_asynchronously(embedder):
    selector = await QuadrieveExampleSelector.afrom_examples(EXAMPLES, embedder=embedder, k=1)
    id = await selector.aadd_example({"input": "My soup came icy cold.", "output": "terrible"})
    assert isinstance(id, str)
    assert (await selector.aselect_examples(CASE))[0]["output"] == "terrible"


def test_inside_a_few_shot_prompt(selector_of):
    shots = FewShotChatMessagePromptTemplate(
        example_selector=selector_of(k=1),
        example_prompt=ChatPromptTemplate.from_messages([("human", "{input}"), ("ai", "{output}")]),
        input_variables=["input"],
    )
    prompt = ChatPromptTemplate.from_messages([("system", "Judge."), shots, ("human", "{input}")])
    said = [(message.type, message.content) for message in prompt.format_messages(**CASE)]
    assert said == [
        ("system", "Judge."),
        ("human", "The soup was cold."),
        ("ai", "bad"),
        ("human", "My soup came cold."),
    ]


def test_duplicates_are_ignored(selector_of):
    selector = selector_of([*EXAMPLES, *EXAMPLES], k=8)
    selector.add_example(EXAMPLES[0])
    assert selector.example_bank.count() == 4
    assert len(selector.select_examples(CASE)) == 4


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
@pytest.mark.parametrize("diversity", [None, 0.5])
def test_filters_hold_in_every_mode(selector_of, mode, diversity):
    selector = selector_of(k=8, where={"lang": "en", "stars": {"$lte": 2}}, mode=mode, diversity=diversity)
    chosen = selector.select_examples(CASE)
    assert chosen
    assert all(example["lang"] == "en" and example["stars"] <= 2 for example in chosen)


def test_diversity_prefers_what_is_not_said_yet(selector_of):
    near = selector_of(k=2).select_examples(CASE)
    diverse = selector_of(k=2, diversity=0.9).select_examples(CASE)
    assert near == [EXAMPLES[3], EXAMPLES[0]]
    assert diverse[-1] == EXAMPLES[0]
    assert diverse[0] != EXAMPLES[3]


def test_the_budget_leaves_the_farthest_out(selector_of):
    assert selector_of(k=4, max_tokens=14).select_examples(CASE) == [EXAMPLES[3], EXAMPLES[0]]
    assert selector_of(k=4, max_tokens=0).select_examples(CASE) == []


def test_only_chosen_keys_count_and_any_json_value_will_do(selector_of):
    examples = [
        {"question": "2 + 2", "hints": ["add", None], "answer": {"value": 4}, "task": "maths"},
        {"question": "Capital of France", "hints": [], "answer": {"value": "Paris"}, "task": "places"},
    ]
    options = {"input_keys": ["question", "hints"], "output_keys": ["answer"], "k": 1}
    selector = selector_of(examples, **options)
    assert selector.select_examples({"question": "3 + 5", "hints": ["add"], "unrelated": object()}) == [examples[0]]
    assert selector_of(examples, where={"task": "places"}, **options).select_examples(examples[0]) == [examples[1]]


def test_a_bank_filled_elsewhere_will_do(embedder):
    bank = ExampleBank.open(None, embedder=embedder)
    bank.add("The soup was cold.", "bad", task="review", metadata={"lang": "en"})
    selector = QuadrieveExampleSelector(bank)
    assert selector.select_examples(CASE) == [
        {"input": "The soup was cold.", "output": "bad", "task": "review", "lang": "en"}
    ]


def test_no_examples_are_no_error(selector_of):
    assert selector_of([]).select_examples(CASE) == []


def test_what_lacks_a_key_is_refused(selector_of):
    with pytest.raises(InputError, match="'output'"):
        selector_of([{"input": "x"}])
    with pytest.raises(InputError, match="'input'"):
        selector_of().select_examples({"question": "x"})
    with pytest.raises(InputError, match="at once"):
        selector_of(output_keys=["input"])
    with pytest.raises(InputError, match="lists"):
        selector_of(input_keys="input")
