"""What an agent's run knows of the conversation that it belongs to: what the user said, which tools were called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.memory import BaseMemory
from llama_index.core.workflow import Context
from workflows.errors import WorkflowRuntimeError

_KEPT = "quadrieve_conversation"  # where a run's context keeps it, as JSON
_TURNS = 64  # how many turns and tools it keeps at most
_REACT_ACTION = re.compile(r"^Action: (\S+)", re.MULTILINE)


@dataclass(frozen=True)
class Conversation:
    """A conversation so far.

    Attributes:
        request: What the user asks in this turn; empty outside of an agent's run.
        said: What the user said in all turns, oldest first.
        called: Names of the tools that were called, oldest first, each once.
    """

    request: str = ""
    said: tuple[str, ...] = ()
    called: tuple[str, ...] = ()


async def current_conversation(call: str | None = None) -> Conversation:
    """The conversation of the agent's step that is running; empty where none is.

    It is read from the run's memory, and from what the run's context has kept of earlier runs: a context that is
    run again loses a memory that it cannot serialise. Nothing is kept here, so that any number of conversations
    can use one agent at a time.

    Args:
        call: The name of a tool that is about to be run.
    """
    try:
        store = Context.get_step_context().store
    except WorkflowRuntimeError:
        return Conversation()
    request = await store.get("user_msg_str", default=None) or ""
    call = None if call == request else call  # the user named a tool, and nobody runs it yet
    memory = await store.get("memory", default=None)
    messages = await memory.aget_all() if isinstance(memory, BaseMemory) else []
    kept = await store.get(_KEPT, default=None) or {"said": [], "called": []}
    said = [message.content or "" for message in messages if message.role is MessageRole.USER]
    if len(said) < 2:
        said = kept["said"] if kept["said"][-1:] == [request] else [*kept["said"], request]
    in_this_turn = [result.tool_name for result in await store.get("current_tool_calls", default=None) or ()]
    called = dict.fromkeys([*kept["called"], *calls(messages), *in_this_turn, *filter(None, [call])])
    keep = {"said": said[-_TURNS:], "called": list(called)[-_TURNS:]}
    if keep != kept:
        await store.set(_KEPT, keep)
    return Conversation(request, tuple(said), tuple(called))


def calls(messages: Iterable[ChatMessage]) -> Iterator[str]:
    r"""Names of the tools that an assistant called, as function calls or in a ReAct agent's words.

    Example:
        >>> list(calls([ChatMessage(role="assistant", content="Thought: rain?\nAction: get_weather")]))
        ['get_weather']
    """
    for message in messages:
        if message.role is not MessageRole.ASSISTANT:
            continue
        yield from (block.tool_name for block in message.blocks if isinstance(block, ToolCallBlock))
        yield from _REACT_ACTION.findall(message.content or "")
        for call in message.additional_kwargs.get("tool_calls") or ():
            function = call.get("function", call) if isinstance(call, dict) else getattr(call, "function", call)
            name = function.get("name") if isinstance(function, dict) else getattr(function, "name", None)
            if isinstance(name, str):
                yield name
