"""Middleware that remembers what was said, and shows the model what of it helps now."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Annotated, Any, NotRequired, get_args

from langchain.agents.middleware import AgentMiddleware, AgentState, ModelRequest, ModelResponse
from langchain.agents.middleware.types import OmitFromInput
from langchain.tools import ToolRuntime
from langchain_core.messages import AIMessage, AnyMessage, SystemMessage
from langgraph.runtime import Runtime
from langgraph.store.base import NOT_PROVIDED, BaseStore, NotProvided, SearchItem

from quadrieve import InputError
from quadrieve.examples import CountTokens, estimate_tokens
from quadrieve.index.records import check_namespace, content_id
from quadrieve.turns import Turn, exchanges, render

from .memory_tools import MemoryTool, memory_tools, memory_value
from .recollection import Recollection, quote_memories, quote_memory, recollection
from .said import said_by_user


class MemoryState(AgentState[Any]):
    """An agent's state with what was recalled in this run, and how far the conversation is written."""

    recalled: NotRequired[Annotated[list[Recollection], OmitFromInput]]
    written_until: NotRequired[Annotated[str, OmitFromInput]]


class MemoryMiddleware(AgentMiddleware[MemoryState, Any, Any]):
    """Recalls a user's earlier conversations before the model is called, and keeps each new turn once.

    Works with any `BaseStore` that searches by meaning; `QuadrieveStore` also prompts each side as it should be.
    A user's memories lie in a namespace of their own, and no other is ever read or written.

    Example:
        >>> from langchain.agents import create_agent
        >>> from langchain_core.language_models import GenericFakeChatModel
        >>> from quadrieve import Embedder
        >>> from langchain_quadrieve import QuadrieveStore
        >>> model = GenericFakeChatModel(messages=iter(["Nice!", "It is Biscuit."]))
        >>> store = QuadrieveStore(embedder=Embedder.load())
        >>> agent = create_agent(model, middleware=[MemoryMiddleware(user="user_id")], store=store)
        >>> ada = {"user_id": "ada"}
        >>> _ = agent.invoke({"messages": [("user", "My dog is called Biscuit.")]}, context=ada)
        >>> result = agent.invoke({"messages": [("user", "What is my dog called?")]}, context=ada)
        >>> result["recalled"][0]["text"].splitlines()
        ['User: My dog is called Biscuit.', 'Assistant: Nice!']
    """

    state_schema = MemoryState

    def __init__(
        self,
        store: BaseStore | None = None,
        *,
        user: str | Callable[[Any], str | Sequence[str]] = "user_id",
        k: int = 5,
        min_score: float | None = 0.1,
        max_tokens: int = 1000,
        write: bool = True,
        tools: Sequence[MemoryTool] = (),
        ttl: float | NotProvided | None = NOT_PROVIDED,
        namespace: Sequence[str] = ("memories",),
        count_tokens: CountTokens = estimate_tokens,
    ) -> None:
        """Say whose memories they are, and how many of them a prompt takes.

        Args:
            store: Where memories lie; None takes the agent's own, `create_agent(…, store=…)`.
            user: The key or attribute of the runtime context that names the user, or a function of the context.
            k: How many memories at most.
            min_score: The relevance floor, in the store's scores; 0.1 suits the packaged model. None has no floor,
                and is needed for a store that does not score.
            max_tokens: What the recalled memories may take in the prompt together.
            write: Whether turns are kept when the agent has answered.
            tools: What the model may do on its own: `remember`, `recall`, `forget`.
            ttl: Minutes that a memory lives; the store's default if not given.
            namespace: Under which labels of the store the users' memories lie.
            count_tokens: Counts tokens as the model does; four bytes each by default.

        Raises:
            InputError: If a tool is unknown, or a number out of range.
        """
        super().__init__()
        if k < 1 or max_tokens < 0:
            raise InputError(f"k must be at least 1 and max_tokens not negative, got k={k}, max_tokens={max_tokens}.")
        unknown = set(tools) - set(get_args(MemoryTool))
        if unknown:
            raise InputError(f"Unknown tools {sorted(unknown)}; expected some of {', '.join(get_args(MemoryTool))}.")
        self.store = store
        self.user = user
        self.k = k
        self.min_score = min_score
        self.max_tokens = max_tokens
        self.write = write
        self.ttl = ttl
        self.namespace = tuple(namespace)
        self.count_tokens = count_tokens
        self.tools = memory_tools(tools, self._place, k, ttl)

    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Recall what helps with the user's turn."""
        query = _question(state["messages"])
        if not query:
            return {"recalled": []}
        store, namespace = self._place(runtime)
        found = store.search(namespace, query=query, limit=self._limit(state))
        return {"recalled": self._choose(found, state)}

    async def abefore_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Recall what helps with the user's turn."""
        query = _question(state["messages"])
        if not query:
            return {"recalled": []}
        store, namespace = self._place(runtime)
        found = await store.asearch(namespace, query=query, limit=self._limit(state))
        return {"recalled": self._choose(found, state)}

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Show the model what was recalled, at the end of its system message."""
        return handler(_with_memories(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """Show the model what was recalled, at the end of its system message."""
        return await handler(_with_memories(request))

    def after_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Keep the turns that are not kept yet."""
        if not self.write:
            return None
        store, namespace = self._place(runtime)
        for key, text in _exchanges(_unwritten(state)).items():
            if store.get(namespace, key, refresh_ttl=False) is None:
                store.put(namespace, key, memory_value(text, "conversation"), index=["text"], ttl=self.ttl)
        return _written(state)

    async def aafter_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Keep the turns that are not kept yet."""
        if not self.write:
            return None
        store, namespace = self._place(runtime)
        for key, text in _exchanges(_unwritten(state)).items():
            if await store.aget(namespace, key, refresh_ttl=False) is None:
                await store.aput(namespace, key, memory_value(text, "conversation"), index=["text"], ttl=self.ttl)
        return _written(state)

    def namespace_of(self, user: str | Sequence[str]) -> tuple[str, ...]:
        """Where in the store a user's memories lie.

        One label names the user however many levels there are, so that no user's namespace lies within another's.

        Example:
            >>> MemoryMiddleware().namespace_of(("acme", "j.doe"))
            ('memories', 'acme/j%2Edoe')
        """
        return (*self.namespace, "/".join(map(_label, check_namespace(user))))

    def _place(self, runtime: Runtime[Any] | ToolRuntime[Any, Any]) -> tuple[BaseStore, tuple[str, ...]]:
        """The store and the user's namespace in it."""
        store = self.store or runtime.store
        if store is None:
            raise InputError("MemoryMiddleware has no store; pass one to it, or to create_agent(…, store=…).")
        context = runtime.context
        if callable(self.user):
            user: Any = self.user(context)
        elif isinstance(context, Mapping):
            user = context.get(self.user)
        else:
            user = getattr(context, self.user, None)
        if not user:
            raise InputError(f"The runtime context names no user; invoke the agent with context={{{self.user!r}: …}}.")
        return store, self.namespace_of(user)

    def _limit(self, state: MemoryState) -> int:
        """So many that k are left when those that the prompt holds anyway are left out."""
        return self.k + len(_exchanges(state["messages"]))

    def _choose(self, found: Sequence[SearchItem], state: MemoryState) -> list[Recollection]:
        """The best that fit the budget, in the order in which they were said."""
        in_prompt = _exchanges(state["messages"])
        chosen: list[Recollection] = []
        left = self.max_tokens
        for item in found:
            relevant = self.min_score is None or (item.score is not None and item.score >= self.min_score)
            if relevant and item.key not in in_prompt and len(chosen) < self.k:
                memory = recollection(item)
                cost = self.count_tokens(quote_memory(memory))
                if cost <= left:
                    chosen.append(memory)
                    left -= cost
        return sorted(chosen, key=lambda memory: memory["at"])


def _question(messages: Sequence[AnyMessage]) -> str:
    return next((message.text for message in reversed(messages) if said_by_user(message)), "").strip()


def _exchanges(messages: Sequence[AnyMessage]) -> dict[str, str]:
    """What user and assistant said to each other, by a key made of it."""
    turns: list[Turn] = []
    for message in messages:
        if said_by_user(message):
            turns.append(Turn("user", message.text))
        elif isinstance(message, AIMessage) and message.text.strip() and not message.tool_calls and turns:
            turns.append(Turn("assistant", message.text))
    texts = [render(exchange) for exchange in exchanges(turns)]
    return {content_id(text): text for text in texts}


def _unwritten(state: MemoryState) -> Sequence[AnyMessage]:
    messages = state["messages"]
    ids = [message.id for message in messages]
    until = state.get("written_until")
    return messages[ids.index(until) + 1 :] if until in ids else messages


def _written(state: MemoryState) -> dict[str, Any]:
    return {"written_until": state["messages"][-1].id} if state["messages"] else {}


def _with_memories(request: ModelRequest[Any]) -> ModelRequest[Any]:
    recalled: list[Recollection] = request.state.get("recalled") or []  # type: ignore[assignment]  # our own key
    if not recalled:
        return request
    block = quote_memories(recalled)
    system = request.system_message
    if system is None:
        return request.override(system_message=SystemMessage(block))
    longer = f"{system.content}\n\n{block}" if isinstance(system.content, str) else [*system.content, _text(block)]
    return request.override(system_message=system.model_copy(update={"content": longer}))


def _text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def _label(level: str) -> str:
    """A level of a user's name as LangGraph takes it: neither `.` nor NUL, and no `/` of its own."""
    return re.sub(r"[%./\x00]", lambda match: f"%{ord(match[0]):02X}", level)
