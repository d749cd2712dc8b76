"""Middleware that offers the model the few tools that a user's turn needs."""

from __future__ import annotations

import hashlib
import logging
import threading
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, NotRequired, TypedDict

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import ExtendedModelResponse, OmitFromInput, ToolCallRequest
from langchain_core.messages import AnyMessage, ToolMessage
from langchain_core.runnables.config import run_in_executor
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.types import Command

from quadrieve import EmbedderLike, InputError, Tool, Toolbox
from quadrieve.index.ranking import Mode
from quadrieve.tools import Allowed

from .said import said_by_user

_log = logging.getLogger(__name__)


class ToolSelection(TypedDict):
    """What was offered in a user's turn, and why.

    Attributes:
        turn: The id of the user's message that it was chosen for.
        available: A hash of the names that there were to choose from.
        offered: Names of tools, in the order in which they are offered; a provider's own come first.
        why: For each chosen tool its score and which ranker found it at which rank; `always`, `required_by` a name,
            `kept` from before, or `fallback` with what kept it from choosing.
    """

    turn: str
    available: str
    offered: list[str]
    why: dict[str, dict[str, Any]]


class ToolSelectionState(AgentState[Any]):
    """An agent's state with what was offered."""

    tool_selection: NotRequired[Annotated[ToolSelection, OmitFromInput]]


class ToolSelectionMiddleware(AgentMiddleware[ToolSelectionState, Any, Any]):
    """Offers the tools that fit the conversation, chosen once in each user turn, without a language model.

    Within a turn tools are only added, at the end. From turn to turn they stay where they are until another one is
    needed. So the prompt begins as it did before, and its cache survives, unless a tool is added or access withdrawn.
    A call to a tool that was not offered is refused. Put it last among the middleware, so that it sees all tools.

    A tool may say more of itself in `metadata`: `usage` (requests that it answers), `requires` (names of tools that
    must be at hand with it) and `permissions` (what a caller must hold).

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import FakeListChatModel
        >>> from langchain_core.tools import tool
        >>> from quadrieve import Embedder
        >>> @tool
        ... def get_weather(city: str) -> str:
        ...     "Get the weather of a city."
        ...     return "Rain."
        >>> @tool
        ... def send_mail(to: str, text: str) -> str:
        ...     "Send an e-mail."
        ...     return "Sent."
        >>> class Model(FakeListChatModel):
        ...     def bind_tools(self, tools, **kwargs):
        ...         return FakeListChatModel(responses=[f"I was offered {[tool.name for tool in tools]}."])
        >>> select = ToolSelectionMiddleware(tools=[get_weather, send_mail], embedder=Embedder.load(), max_tools=1)
        >>> agent = create_agent(Model(responses=[""]), middleware=[select])
        >>> agent.invoke({"messages": [("user", "Is it raining in Oslo?")]})["messages"][-1].text
        "I was offered ['get_weather']."
    """

    state_schema = ToolSelectionState

    def __init__(
        self,
        toolbox: Toolbox | None = None,
        *,
        tools: Sequence[BaseTool] = (),
        embedder: EmbedderLike | None = None,
        max_tools: int = 8,
        max_tokens: int | None = None,
        always: Sequence[str] = (),
        allowed: Callable[[Any], Allowed | None] | None = None,
        mode: Mode = "hybrid",
    ) -> None:
        """Say which tools there are, and how many a prompt takes.

        Args:
            toolbox: Tools described already, matched to the agent's by name; None makes one in memory.
            tools: Tools to add to the agent, encoded now. Tools that come otherwise, from `create_agent(tools=…)`
                or another middleware, are encoded when they are first seen, and again when they change.
            embedder: What encodes the tools, where there is no toolbox.
            max_tools: How many are chosen by rank; those of `always` and those required come on top.
            max_tokens: What the chosen tools' descriptions may take together.
            always: Names of tools to offer in every turn in which they, and what they require, are allowed.
            allowed: Makes of the runtime context what the caller may use: permissions that it holds, or a function
                of the `Tool`. What is not allowed is neither offered nor run.
            mode: How to rank: `hybrid`, `dense` or `lexical`.

        Raises:
            InputError: If there is neither a toolbox nor an embedder, or `max_tools` is out of range.
        """
        super().__init__()
        if toolbox is None:
            if embedder is None:
                raise InputError("ToolSelectionMiddleware needs toolbox=… or embedder=…; got neither.")
            toolbox = Toolbox.open(None, embedder=embedder)
        if max_tools < 1:
            raise InputError(f"max_tools must be at least 1, got {max_tools}.")
        self.toolbox = toolbox
        self.tools = tools
        self.max_tools = max_tools
        self.max_tokens = max_tokens
        self.always = tuple(always)
        self.allowed = allowed
        self.mode: Mode = mode
        self._known = {tool.name: tool for tool in toolbox.get()}
        self._described = frozenset(self._known)
        self._seen: dict[str, tuple[Any, ...]] = {}
        self._objects: dict[str, BaseTool] = {}
        self._registering = threading.Lock()
        self._register(tools)

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ExtendedModelResponse[Any]:
        """Offer the chosen tools to the model."""
        narrowed, update = self._narrow(request)
        return ExtendedModelResponse(handler(narrowed), update)

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ExtendedModelResponse[Any]:
        """Offer the chosen tools to the model."""
        narrowed, update = await run_in_executor(None, self._narrow, request)
        return ExtendedModelResponse(await handler(narrowed), update)

    def wrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], ToolMessage | Command[Any]]
    ) -> ToolMessage | Command[Any]:
        """Refuse a call to a tool that was not offered."""
        return self._refusal(request) or handler(request)

    async def awrap_tool_call(
        self, request: ToolCallRequest, handler: Callable[[ToolCallRequest], Awaitable[ToolMessage | Command[Any]]]
    ) -> ToolMessage | Command[Any]:
        """Refuse a call to a tool that was not offered."""
        return self._refusal(request) or await handler(request)

    def _narrow(self, request: ModelRequest[Any]) -> tuple[ModelRequest[Any], Command[Any] | None]:
        """The request with the chosen tools only, and what to note of it in the state."""
        asked = [message for message in request.messages if said_by_user(message)]
        failure: Exception | None = None
        try:
            self._register(request.tools)
        except Exception as error:  # whatever fails, the agent goes on with all its tools
            failure = error
        by_name = [(_name(tool), tool) for tool in request.tools]
        named = {name: tool for name, tool in by_name if name in self._known}
        others = [tool for name, tool in by_name if name not in self._known]
        holds = self.allowed(request.runtime.context) if self.allowed else None
        open_to = list(named) if holds is None else [name for name in named if _is_open(self._known[name], holds)]
        available = hashlib.sha256("\n".join(sorted(open_to)).encode()).hexdigest()[:16]
        before: ToolSelection | None = request.state.get("tool_selection")  # type: ignore[assignment]  # our own key
        # A turn whose message was summarized away goes on.
        turn = str(asked[-1].id) if asked else before["turn"] if before else ""
        selection = before
        if before is None or (before["turn"], before["available"]) != (turn, available):
            same_turn = before is not None and before["turn"] == turn
            earlier = [
                name
                for name in (before["offered"] if before else ())
                if name in open_to and (same_turn or (before and "fallback" not in before["why"].get(name, ())))
            ]
            why = self._choose(asked, open_to, holds, earlier if same_turn else [], failure)
            stay = earlier if same_turn or why.keys() <= set(earlier) else [name for name in earlier if name in why]
            chosen = [*stay, *(name for name in why if name not in stay)]
            selection = ToolSelection(
                turn=turn,
                available=available,
                offered=[*filter(None, map(_name, others)), *chosen],
                why={name: why.get(name, {"kept": True}) for name in chosen},
            )
        assert selection is not None
        offered = [named[name] for name in selection["offered"] if name in named]
        return request.override(tools=[*others, *offered]), Command(update={"tool_selection": selection})

    def _choose(
        self,
        asked: Sequence[AnyMessage],
        open_to: Sequence[str],
        holds: Allowed | None,
        earlier: Sequence[str],
        failure: Exception | None,
    ) -> dict[str, dict[str, Any]]:
        """The names of the tools to offer, best first, each with why; all of them where choosing fails.

        Args:
            asked: The user's messages.
            open_to: The names to choose from.
            holds: What the caller may use.
            earlier: What stays offered, and takes its part of the budget.
            failure: What went wrong before.
        """
        names = set(open_to)
        if not asked:
            return {} if earlier else {name: {"fallback": "The user has said nothing."} for name in open_to}
        try:
            if failure is not None:
                raise failure
            hits = self.toolbox.select(
                _request(asked),
                k=self.max_tools,
                always=[name for name in self.always if name not in earlier and self._needed(name) <= names],
                max_tokens=None if self.max_tokens is None else max(0, self.max_tokens - self._tokens(earlier)),
                # A function is asked about every tool, so it is passed only where it decides something.
                allowed=holds if len(names) == len(self._known) else lambda tool: tool.name in names,
                mode=self.mode,
            )
        except Exception as error:  # whatever fails, the agent goes on with all its tools
            _log.warning("Choosing tools failed, so all %d are offered: %s", len(open_to), error, exc_info=error)
            return {name: {"fallback": str(error)} for name in open_to}
        return {hit.name: {"score": round(hit.score, 4), **hit.why} for hit in hits if hit.name in names}

    def _needed(self, name: str) -> set[str]:
        """A tool and all that it requires, whether it is there or not."""
        needed: set[str] = set()
        left = [name]
        while left:
            needed.add(name := left.pop())
            if name in self._known:
                left += set(self._known[name].requires) - needed
        return needed

    def _tokens(self, names: Iterable[str]) -> int:
        return sum(self.toolbox.count_tokens(self._known[name].describe()) for name in names)

    def _register(self, tools: Iterable[BaseTool | Mapping[str, Any]]) -> None:
        """Encode tools that are new or changed; what the toolbox knew from the start describes itself."""
        with self._registering:
            new = [
                tool
                for tool in tools
                if isinstance(tool, BaseTool)
                and self._objects.get(tool.name) is not tool
                and tool.name not in self._described
                and self._seen.get(tool.name) != _content(tool)
            ]
            if new:
                described = [_describe(tool) for tool in new]
                self._known |= {tool.name: tool for tool in described}
                self.toolbox.register(described)
                self._seen |= {tool.name: _content(tool) for tool in new}
                self._objects |= {tool.name: tool for tool in new}

    def _refusal(self, request: ToolCallRequest) -> ToolMessage | None:
        selection: ToolSelection | None = request.state.get("tool_selection")
        if selection is None:  # no model was called yet
            return None
        name = request.tool_call["name"]
        holds = self.allowed(request.runtime.context) if self.allowed else None
        if name in selection["offered"] and (name not in self._known or _is_open(self._known[name], holds)):
            return None
        return ToolMessage(
            f"The tool {name!r} is not offered in this turn; offered are {', '.join(selection['offered']) or 'none'}.",
            name=name,
            tool_call_id=request.tool_call["id"],
            status="error",
        )


def _name(tool: BaseTool | Mapping[str, Any]) -> str | None:
    """A tool's name; a provider's own tool may have none."""
    if isinstance(tool, BaseTool):
        return tool.name
    name: str | None = tool.get("function", tool).get("name")
    return name


def _content(tool: BaseTool) -> tuple[Any, ...]:
    """What a tool says of itself; servers hand out new objects for the same tools again and again."""
    return tool.name, tool.description, tool.args_schema, tool.metadata


def _describe(tool: BaseTool) -> Tool:
    function = convert_to_openai_tool(tool)["function"]
    more = tool.metadata or {}
    return Tool(
        function["name"],
        function.get("description", ""),
        function.get("parameters", {}),
        usage=more.get("usage", ()),
        requires=more.get("requires", ()),
        permissions=more.get("permissions", ()),
    )


def _is_open(tool: Tool, holds: Allowed | None) -> bool:
    if holds is None:
        return True
    return holds(tool) if callable(holds) else set(tool.permissions) <= set(holds)


def _request(asked: Sequence[AnyMessage]) -> str:
    """What to search with: the user's last turn, said twice, and the one before it.

    A turn such as "and the day after?" means nothing alone, and one that changes the subject must not drown in
    what was said before. Of 50 turns over 2,000 tools 48 find their tool so, and 45 where the last turn stands
    once; saying it thrice, or one more turn before it, finds no more and takes longer to encode
    (`benchmarks/langchain_agent.py`).
    """
    texts = [message.text for message in asked]
    return "\n".join([texts[-1]] * 2 + texts[-2:-1])
