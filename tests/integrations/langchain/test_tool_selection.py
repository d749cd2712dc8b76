"""An agent is offered the tools that its user's turn needs, and no others."""

from __future__ import annotations

import pytest
from langchain.agents import create_agent
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import tool

from langchain_quadrieve import ToolSelectionMiddleware


@tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"Rain in {city}."


@tool
def send_email(to: str, body: str) -> str:
    """Send an e-mail to somebody."""
    return "sent"


@tool
def convert_currency(amount: float, source: str, target: str) -> str:
    """Convert an amount of money from one currency to another."""
    return "1"


TOOLS = [get_weather, send_email, convert_currency]


def call(name: str, **args: object) -> AIMessage:
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_right_tool_is_offered_and_can_be_called(embedder, scripted, asynchronous):
    model = scripted(
        lambda messages, _: (
            AIMessage("It rains.") if isinstance(messages[-1], ToolMessage) else call("get_weather", city="Oslo")
        )
    )
    agent = create_agent(model, tools=TOOLS, middleware=[ToolSelectionMiddleware(embedder=embedder, max_tools=1)])
    asked = {"messages": [("user", "What is the weather in Oslo?")]}
    result = await agent.ainvoke(asked) if asynchronous else agent.invoke(asked)
    assert model.offers == [["get_weather"], ["get_weather"]]
    assert [m.text for m in result["messages"] if isinstance(m, ToolMessage)] == ["Rain in Oslo."]
    assert result["tool_selection"]["offered"] == ["get_weather"]


def test_a_call_to_a_tool_that_was_not_offered_is_refused(embedder, scripted):
    model = scripted(
        lambda messages, _: (
            AIMessage("Sorry.") if isinstance(messages[-1], ToolMessage) else call("send_email", to="a", body="b")
        )
    )
    agent = create_agent(model, tools=TOOLS, middleware=[ToolSelectionMiddleware(embedder=embedder, max_tools=1)])
    result = agent.invoke({"messages": [("user", "What is the weather in Oslo?")]})
    [refusal] = [m for m in result["messages"] if isinstance(m, ToolMessage)]
    assert refusal.status == "error"
    assert "send_email" in refusal.text
