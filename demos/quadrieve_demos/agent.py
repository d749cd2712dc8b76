"""An agent over thousands of tools: what each turn of a conversation was offered, and what came of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from quadrieve import Tool, Toolbox

from . import texts

SYSTEM = "You are a helpful assistant. Answer in one short sentence."
_TOGETHER = 256  # tools that are encoded before they are written: what a stop may lose


class Request(NamedTuple):
    """What a user says, and the tool that it needs, where somebody wrote that down."""

    message: str
    tool: str | None = None


class Offer(NamedTuple):
    """Names of the tools that a turn was offered, and how many seconds it took to choose them."""

    names: Sequence[str]
    seconds: float


@dataclass(frozen=True)
class Turn:
    """A turn of a conversation.

    Attributes:
        talk: Which conversation, from 1.
        asked: What the user said.
        needed: The right tool, where it is known.
        offered: The tools that the model was offered.
        called: The calls that it made, the arguments as it wrote them.
        said: What it said instead of a call.
        found: Whether the right tool was offered; None where it is not known.
        right: Whether the right tool was called; None where it is not known.
        tokens: Tokens of the offered tools' schemas.
        milliseconds: What choosing them took, from the user's message to the model.
    """

    talk: int
    asked: str
    needed: str | None
    offered: Sequence[str]
    called: Sequence[str]
    said: str
    found: bool | None
    right: bool | None
    tokens: int
    milliseconds: float


class Prices:
    """What tools take in a prompt, as the JSON schemas that a provider is sent.

    Args:
        tools: All that there are.
        count_tokens: Counts them as the model reads them.
    """

    def __init__(self, tools: Iterable[Tool], count_tokens: Callable[[str], int]) -> None:
        self._tokens = {tool.name: count_tokens(json.dumps(schema(tool))) for tool in tools}
        self.all = sum(self._tokens.values())

    def of(self, names: Iterable[str]) -> int:
        """Tokens of some of them."""
        return sum(self._tokens[name] for name in names)

    def turn(
        self, talk: int, request: Request, offer: Offer, calls: Sequence[tuple[str, Mapping[str, Any]]], said: str
    ) -> Turn:
        """A turn with its figures; what was said counts where nothing was called."""
        needed = request.tool
        return Turn(
            talk,
            request.message,
            needed,
            list(offer.names),
            [f"{name}({', '.join(f'{key}={value!r}' for key, value in given.items())})" for name, given in calls],
            "" if calls else said,
            None if needed is None else needed in offer.names,
            None if needed is None else needed in [name for name, _ in calls],
            self.of(offer.names),
            round(1000 * offer.seconds, 1),
        )


def talks() -> list[list[Request]]:
    """The conversations that were written."""
    rows = texts.read("agent_turns")
    return [
        [Request(row["message"], row["tool"]) for row in talk]
        for _, talk in itertools.groupby(rows, key=lambda row: row["talk"])
    ]


def register(box: Toolbox, tools: Sequence[Tool], *, progress: bool = False) -> int:
    """Describe tools to a toolbox, some at a time, so that a stop loses little; returns how many were encoded."""
    from tqdm.auto import trange

    starts = trange(0, len(tools), _TOGETHER, desc="Indexing tools", disable=not progress)
    return sum(len(box.register(tools[start : start + _TOGETHER])) for start in starts)


def run(tool: Tool, arguments: Mapping[str, Any]) -> str:
    """What a tool of the demo does: it says that it was called, as it has no world to act on."""
    return f"{tool.name} was called with {dict(arguments)}."


def schema(tool: Tool) -> dict[str, Any]:
    """What a model reads of a tool; its description also tells requests that it answers."""
    described = tool.description + "".join(f"\nRequest: {request}" for request in tool.usage)
    function = {"name": tool.name, "description": described, "parameters": dict(tool.parameters)}
    return {"type": "function", "function": function}
