"""An agent with 2,000 tools is offered the right ones over 50 user turns, cheaply, in a prompt that stays put."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.models


@pytest.fixture(scope="module")
def benchmark_agent():
    path = Path(__file__).parents[3] / "benchmarks" / "langchain_agent.py"
    spec = importlib.util.spec_from_file_location("langchain_agent_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def result(benchmark_agent, embedder):
    tools = benchmark_agent.catalogue(2000)
    assert len({tool.name for tool in tools}) == 2000
    return benchmark_agent.choose_by_embedding(tools, embedder, 8)


def test_the_right_tool_is_offered(result):
    assert result["turns"] == 50
    assert result["right"] >= 0.95, result["missed"]
    assert all(8 <= len(offer) <= 12 for offer in result["offers"])  # eight by rank, and what they require


def test_the_prompt_changes_only_when_a_tool_is_added(result):
    assert result["changes_without_addition"] == 0
    assert result["changes_within_turns"] == 0


def test_langchains_own_selector_asks_a_model_before_every_call(benchmark_agent):
    result = benchmark_agent.choose_by_model(benchmark_agent.catalogue(100), 8, benchmark_agent.CONVERSATIONS[3:4])
    assert result["calls_per_turn"] >= 1
    assert all(len(prompt) > 5000 for prompt in result["prompts"])
