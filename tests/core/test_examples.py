"""Examples come nearest last and within a budget."""

import pytest

from quadrieve import Embedder, Example, ExampleBank, InputError


@pytest.fixture
def bank(embedder: Embedder) -> ExampleBank:
    bank = ExampleBank.open(None, embedder=embedder)
    bank.add_many(
        [
            Example("The soup was cold.", "bad", "review"),
            Example("Best pie in town!", "good", "review"),
            Example("Nice pizza, a bit cold.", "mixed", "review"),
            Example({"amount": 3, "unit": "km"}, {"m": 3000}, "convert"),
        ]
    )
    return bank


def test_the_nearest_comes_last(bank: ExampleBank) -> None:
    chosen = bank.select("My pizza arrived cold.", k=3, mode="dense")
    assert chosen[-1].input == "Nice pizza, a bit cold."
    assert [example.score for example in chosen] == sorted(example.score for example in chosen)


def test_only_those_of_a_task(bank: ExampleBank) -> None:
    assert {example.task for example in bank.select("cold", k=8, task="convert")} == {"convert"}


def test_any_json_value_comes_back_as_it_was(bank: ExampleBank) -> None:
    (example,) = bank.select({"amount": 5, "unit": "km"}, k=1)
    assert (example.input, example.output) == ({"amount": 3, "unit": "km"}, {"m": 3000})


def test_the_budget_leaves_out_the_farthest(bank: ExampleBank) -> None:
    everything = bank.select("My pizza arrived cold.", k=3)
    costs = [bank.count_tokens(f"{example.input}\n{example.output}") for example in everything]
    assert bank.select("My pizza arrived cold.", k=3, max_tokens=costs[-1] + costs[-2]) == everything[-2:]
    assert bank.select("My pizza arrived cold.", k=3, max_tokens=0) == []


def test_adding_again_changes_nothing(bank: ExampleBank) -> None:
    first = bank.add("The soup was cold.", "bad", "review")
    assert bank.count() == 4
    assert bank.add("The soup was cold.", "bad") != first  # of no task: another example
    assert bank.delete(where={"task": "review"}) == 3


def test_bad_input_is_refused(bank: ExampleBank) -> None:
    with pytest.raises(InputError, match="The output must be JSON"):
        bank.add("x", {1, 2})
    with pytest.raises(InputError, match="empty list"):
        bank.add_many([])
    with pytest.raises(InputError, match="max_tokens"):
        bank.select("x", max_tokens=-1)
