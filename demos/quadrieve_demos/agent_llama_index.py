"""The agent in LlamaIndex: `FunctionAgent` with tool selection as its tool retriever."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from llama_index.core.agent.workflow import AgentOutput, FunctionAgent
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.schema import QueryType
from llama_index.core.tools import BaseTool, FunctionTool, ToolMetadata
from llama_index.core.workflow import Context

from llama_index_quadrieve import QuadrieveToolRetriever
from quadrieve import Tool, Toolbox

from .agent import SYSTEM, Offer, Prices, Request, Turn, run, schema


class TimedRetriever(QuadrieveToolRetriever):
    """Keeps each answer, and how many seconds it took."""

    def __init__(self, toolbox: Toolbox, tools: Sequence[Tool], max_tools: int) -> None:
        super().__init__(
            toolbox,
            map(_runnable, tools),
            max_tools,
            usage={tool.name: tool.usage for tool in tools},
            requires={tool.name: tool.requires for tool in tools},
        )
        self.offers: list[Offer] = []

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[BaseTool]:
        """The tool of that name, or those to offer for a message."""
        start = time.perf_counter()
        found = await super().aretrieve(str_or_query_bundle)
        self.offers.append(Offer([tool.metadata.get_name() for tool in found], time.perf_counter() - start))
        return found


def lead(
    model: FunctionCallingLLM,
    box: Toolbox,
    tools: Sequence[Tool],
    talks: Iterable[Sequence[Request]],
    prices: Prices,
    max_tools: int,
) -> Iterator[Turn]:
    """Lead conversations with an agent that has all the tools, and is offered few of them."""
    retriever = TimedRetriever(box, tools, max_tools)
    agent = FunctionAgent(llm=model, tool_retriever=retriever, system_prompt=SYSTEM, streaming=False)
    with asyncio.Runner() as runner:
        for number, talk in enumerate(talks, 1):
            context = Context(agent)
            for request in talk:
                before = len(retriever.offers)
                done = runner.run(_turn(agent, request.message, context))
                calls = [(call.tool_name, call.tool_kwargs) for call in done.tool_calls]
                yield prices.turn(number, request, retriever.offers[before], calls, done.response.content or "")


async def _turn(agent: FunctionAgent, message: str, context: Context[Any]) -> AgentOutput:
    done: AgentOutput = await agent.run(user_msg=message, ctx=context)
    return done


class _Metadata(ToolMetadata):
    """LlamaIndex's own, with the schema that the tool has already; with what the tool says the turn ends."""

    def __init__(self, tool: Tool) -> None:
        super().__init__(tool.description, tool.name, return_direct=True)
        self._tool = tool

    def get_parameters_dict(self) -> dict[str, Any]:
        """JSON schema of the arguments."""
        return dict(self._tool.parameters)

    def to_openai_tool(self, skip_length_check: bool = False) -> dict[str, Any]:
        """What a model reads."""
        del skip_length_check
        return schema(self._tool)


def _runnable(tool: Tool) -> FunctionTool:
    return FunctionTool(lambda **arguments: run(tool, arguments), metadata=_Metadata(tool))
