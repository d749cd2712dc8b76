"""An agent over thousands of tools: what it is offered, what that saves, and what a second start costs."""

import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tests.core.conftest import HashingEmbedder

from quadrieve import InputError, Toolbox
from quadrieve_demos import agent_llama_index
from quadrieve_demos.agent import Offer, Prices, Request, register, talks
from quadrieve_demos.catalogue import VARIANTS, catalogue

COMMAND = Path(sys.executable).with_name("quadrieve")
REQUESTS = ("Is it raining in Tarrock right now?", "Send Teo an SMS that I am late.", "And one to Imke as well.")


def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, "demo", *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A toolbox that the runs of this file share."""
    return tmp_path_factory.mktemp("agent") / "toolbox"


def test_the_catalogue_has_five_thousand_tools_of_which_no_two_are_alike() -> None:
    tools = catalogue(5000)
    assert len({tool.name for tool in tools}) == len({tool.description for tool in tools}) == 5000
    assert all(tool.parameters["properties"] for tool in tools)
    names = {tool.name for tool in tools}
    assert all(set(tool.requires) <= names for tool in tools)
    assert catalogue(300) == tools[:300]
    for n in (100, 166 * (1 + len(VARIANTS)) + 1):
        with pytest.raises(InputError, match="between 166 and"):
            catalogue(n)


def test_the_conversations_need_tools_that_were_written_and_have_turns_that_mean_little_alone() -> None:
    written = {tool.name for tool in catalogue(166)}
    assert all(request.tool in written for talk in talks() for request in talk)
    assert all(any(a.tool == b.tool for a, b in pairwise(talk)) for talk in talks())


def test_what_is_indexed_is_not_encoded_again_by_either_framework(tmp_path: Path) -> None:
    tools = catalogue(5000)
    first, second = HashingEmbedder(), HashingEmbedder()
    with Toolbox.open(tmp_path, embedder=first) as box:
        assert register(box, tools) == len(first.encoded) == 5000
    with Toolbox.open(tmp_path, embedder=second) as box:
        assert register(box, tools) == 0
        retriever = agent_llama_index.TimedRetriever(box, tools, 5)
        assert len(retriever.retrieve("Is it raining in Tarrock?")) >= 5
        assert second.encoded == []


def test_a_turn_counts_the_schemas_that_it_was_offered_and_says_whether_the_right_one_was_among_them() -> None:
    tools = catalogue(166)
    prices = Prices(tools, len)
    some = [tool.name for tool in tools[:3]]
    assert 0 < prices.of(some) < prices.all == prices.of(tool.name for tool in tools)
    calls = [(some[0], {"title": "Lunch"})]
    turn = prices.turn(1, Request("Put it in.", some[1]), Offer(some, 0.0125), calls, "Done.")
    assert (turn.found, turn.right, turn.tokens, turn.milliseconds) == (True, False, prices.of(some), 12.5)
    assert turn.called == ["create_event(title='Lunch')"]
    assert prices.turn(1, Request("Put it in."), Offer(some, 0.0), calls, "").right is None


@pytest.mark.models
@pytest.mark.parametrize("framework", ["langchain", "llama-index"])
def test_an_agent_is_offered_the_right_one_of_many_tools_and_calls_one_of_them(framework: str, store: Path) -> None:
    there = store.exists()
    done = run("agent", *REQUESTS, "--framework", framework, "--tools", "400", "--store", store, "--json")
    assert done.returncode == 0, done.stderr
    shown: dict[str, Any] = json.loads(done.stdout)
    assert shown["indexed"] == (0 if there else 400)
    weather, message, again = shown["turns"]
    assert "get_current_weather" in weather["offered"]
    assert "send_text_message" in message["offered"]
    assert "send_text_message" in again["offered"]
    for turn in shown["turns"]:
        (call,) = turn["called"]
        assert call.split("(")[0] in turn["offered"]
        assert turn["tokens"] < shown["tokens_of_all"] / 10
        assert 0 < turn["milliseconds"] < 10_000


def test_wrong_usage_ends_with_status_2_in_one_line(tmp_path: Path) -> None:
    assert run("agent", "--framework", "none").returncode == 2
    for arguments, error in (
        (["--framework", "llama-index", "--lm", "openai:gpt-5"], "is a provider's"),
        (["--tools", "3"], "between 166 and"),
        (["Hello.", " "], "say something"),
    ):
        done = run("agent", *arguments, "--store", tmp_path / "toolbox")
        assert done.returncode == 2
        (line,) = [line for line in done.stderr.splitlines() if line.startswith("quadrieve: ")]
        assert error in line
    assert not (tmp_path / "toolbox").exists()
    done = run("--json", "agent")
    assert (done.returncode, done.stderr) == (2, "quadrieve: Write the options of agent behind it.\n")


def test_help_names_an_example_and_the_demo_names_the_agent() -> None:
    assert 'Example: quadrieve demo agent "' in " ".join(run("agent", "--help").stdout.split())
    assert "agent" in run("--help").stdout
