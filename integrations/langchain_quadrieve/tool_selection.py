"""Middleware that offers the model the few tools that a user's turn needs."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Annotated, Any, NotRequired, TypedDict

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse, OmitFromInput, ToolCallRequest
from langchain_core.messages import AnyMessage, HumanMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command

from quadrieve import EmbedderLike, InputError, Tool, Toolbox

_log = logging.getLogger(__name__)


class ToolSelection(TypedDict):
    """What was offered in a turn, and why.

    Attributes:
        turn: The id of the user's message that it was chosen for.
        offered: Names of tools, in the order in which they are offered.
        why: For each of them the score, and which ranker found it at which rank.
    """

    turn: str
    offered: list[str]
    why: dict[str, Any]


class ToolSelectionState(AgentState[Any]):
    """An agent's state with what was offered."""

    tool_selection: NotRequired[Annotated[ToolSelection, OmitFromInput]]


class ToolSelectionMiddleware(AgentMiddleware[ToolSelectionState, Any, Any]):
    """Offers the tools that fit the conversation, chosen once in each user turn, without a language model.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from quadrieve import Embedder
        >>> select = ToolSelectionMiddleware(embedder=Embedder.load(), max_tools=5, always=["ask_human"])
        >>> # agent = create_agent("openai:gpt-5.5", tools=my_thousand_tools, middleware=[select])
    """

    state_schema = ToolSelectionState

    def __init__(
        self,
        toolbox: Toolbox | None = None,
        *,
        tools: Sequence[BaseTool] = (),
        embedder: EmbedderLike | None = None,
        max_tools: int = 8,
        always: Sequence[str] = (),
    ) -> None:
        super().__init__()
        if toolbox is None:
            if embedder is None:
                raise InputError("ToolSelectionMiddleware needs toolbox=… or embedder=…; got neither.")
            toolbox = Toolbox.open(None, embedder=embedder)
        self.toolbox = toolbox
        self.tools = tools
        self.max_tools = max_tools
        self.always = tuple(always)
        self._known = {tool.name for tool in self.toolbox.get()}
        self._register(tools)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Offer the chosen tools to the model."""
        narrowed, selection = self._select(request)
        return _record(handler(narrowed), selection)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any] | ExtendedModelResponse[Any]:
        """Offer the chosen tools to the model."""
        narrowed, selection = await run_in_executor(None, self._select, request)
        return _record(await handler(narrowed), selection)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Refuse a call to a tool that was not offered."""
        return _refusal(request) or handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Refuse a call to a tool that was not offered."""
        return _refusal(request) or await handler(request)

    def _register(self, tools: Iterable[BaseTool | dict[str, Any]]) -> None:
        new = [_tool(tool) for tool in tools if _name(tool) not in self._known]
        if new:
            self.toolbox.register(new)
            self._known |= {tool.name for tool in new}

    def _select(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], ToolSelection | None]:
        self._register(tool for tool in request.tools if isinstance(tool, BaseTool))
        named = {_name(tool): tool for tool in request.tools if _name(tool) in self._known}
        kept = [tool for tool in request.tools if _name(tool) not in self._known]
        turn = next((m for m in reversed(request.messages) if isinstance(m, HumanMessage)), None)
        if turn is None or not turn.text:
            return request, None
        selection: ToolSelection | None = request.state.get("tool_selection")  # type: ignore[assignment]  # our own key
        if selection is None or selection["turn"] != str(turn.id):
            hits = self.toolbox.select(
                _turns(request.messages), k=self.max_tools, always=self.always, allowed=lambda tool: tool.name in named
            )
            why = {hit.name: {"score": round(hit.score, 4), **hit.why} for hit in hits}
            selection = ToolSelection(turn=str(turn.id), offered=list(why), why=why)
        offered = [named[name] for name in selection["offered"] if name in named]
        return request.override(tools=[*kept, *offered]), selection


def _name(tool: BaseTool | dict[str, Any]) -> str | None:
    if isinstance(tool, BaseTool):
        return tool.name
    name: str | None = tool.get("function", tool).get("name")
    return name


def _tool(tool: BaseTool | dict[str, Any]) -> Tool:
    function = convert_to_openai_tool(tool)["function"]
    return Tool(function["name"], function.get("description", ""), function.get("parameters", {}))


def _turns(messages: Sequence[AnyMessage]) -> list[tuple[str, str]]:
    return [("user", message.text) for message in messages if isinstance(message, HumanMessage) and message.text]


def _record(response: ModelResponse[Any], selection: ToolSelection | None) -> ExtendedModelResponse[Any]:
    return ExtendedModelResponse(response, Command(update={"tool_selection": selection}) if selection else None)


def _refusal(request: ToolCallRequest) -> ToolMessage | None:
    selection = request.state.get("tool_selection")
    name = request.tool_call["name"]
    if selection is None or name in selection["offered"]:
        return None
    return ToolMessage(
        f"The tool {name!r} was not offered; use one of {', '.join(selection['offered'])}.",
        name=name,
        tool_call_id=request.tool_call["id"],
        status="error",
    )
