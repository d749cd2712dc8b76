"""What an agent's run knows of the conversation that it belongs to: what the user said, which tools were called."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from llama_index.core.base.llms.types import ChatMessage, MessageRole, ToolCallBlock
from llama_index.core.memory import BaseMemory
from llama_index.core.workflow import Context
from workflows.errors import WorkflowRuntimeError

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


async def current_conversation() -> Conversation:
    """The conversation of the agent's step that is running, read from its own memory; empty where none is.

    Nothing is kept between calls, so that any number of conversations can use one agent at a time.
    """
    try:
        store = Context.get_step_context().store
    except WorkflowRuntimeError:
        return Conversation()
    memory = await store.get("memory", default=None)
    messages = await memory.aget_all() if isinstance(memory, BaseMemory) else []
    in_this_turn = [result.tool_name for result in await store.get("current_tool_calls", default=[])]
    return Conversation(
        await store.get("user_msg_str", default="") or "",
        tuple(m.content or "" for m in messages if m.role is MessageRole.USER),
        tuple(dict.fromkeys([*calls(messages), *in_this_turn])),
    )


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
