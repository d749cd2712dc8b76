"""The agent in LangChain: `create_agent` with tool selection as middleware."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from langchain_core.tools import StructuredTool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_quadrieve import ToolSelectionMiddleware
from quadrieve import Tool, Toolbox

from .agent import SYSTEM, Offer, Prices, Request, Turn, run, schema


class TimedSelection(ToolSelectionMiddleware):
    """Keeps, for each call of the model, how many seconds it took to choose its tools."""

    def __init__(self, toolbox: Toolbox, max_tools: int) -> None:
        super().__init__(toolbox, max_tools=max_tools)
        self.seconds: list[float] = []

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Offer the chosen tools to the model."""
        start = time.perf_counter()

        def timed(narrowed: ModelRequest[Any]) -> ModelResponse[Any]:
            self.seconds.append(time.perf_counter() - start)
            return handler(narrowed)

        return super().wrap_model_call(request, timed)


def lead(
    model: BaseChatModel,
    box: Toolbox,
    tools: Sequence[Tool],
    talks: Iterable[Sequence[Request]],
    prices: Prices,
    max_tools: int,
) -> Iterator[Turn]:
    """Lead conversations with an agent that has all the tools, and is offered few of them."""
    choice = TimedSelection(box, max_tools)
    agent: Any = create_agent(
        model, list(map(runnable, tools)), system_prompt=SYSTEM, middleware=[choice], checkpointer=InMemorySaver()
    )
    for number, talk in enumerate(talks, 1):
        for request in talk:
            before = len(choice.seconds)
            state = agent.invoke({"messages": [HumanMessage(request.message)]}, {"configurable": {"thread_id": number}})
            messages = state["messages"]
            asked = max(i for i, message in enumerate(messages) if isinstance(message, HumanMessage))
            calls = [
                (call["name"], call["args"])
                for message in messages[asked:]
                if isinstance(message, AIMessage)
                for call in message.tool_calls
            ]
            offer = Offer(state["tool_selection"]["offered"], choice.seconds[before])
            yield prices.turn(number, request, offer, calls, messages[-1].text)


def runnable(tool: Tool) -> StructuredTool:
    """A tool of the demo as LangChain's; with what it says the turn ends."""
    return StructuredTool.from_function(
        lambda **arguments: run(tool, arguments),
        name=tool.name,
        description=schema(tool)["function"]["description"],
        args_schema=dict(tool.parameters),
        return_direct=True,
    )
