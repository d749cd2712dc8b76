"""Turns of a conversation, in the shapes people hand them over, and the text that a retrieval makes of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, TypeAlias

from .embedder import check_text
from .errors import InputError


class Turn(NamedTuple):
    """One message: who spoke (`user`, `assistant`, `tool`, `system`) and what was said."""

    role: str
    content: str


#: A message as `Turn`, as `("user", "…")`, or as `{"role": "user", "content": "…"}`.
TurnLike: TypeAlias = "Turn | tuple[str, str] | Mapping[str, object]"


def read_turns(turns: object) -> list[Turn]:
    """The turns as `Turn`s.

    Raises:
        InputError: If it is no list of turns, there is none, or one has no role or no text.
    """
    if isinstance(turns, str) or not isinstance(turns, Iterable):
        raise InputError(f"Expected a list of turns, got {type(turns).__name__}.")
    read: list[Turn] = []
    for i, turn in enumerate(turns):
        if isinstance(turn, Mapping):
            role, content = turn.get("role"), turn.get("content")
        elif isinstance(turn, tuple) and len(turn) == 2:
            role, content = turn
        else:
            raise InputError(
                f"Turn {i} is {type(turn).__name__}; expected ('user', 'text') or "
                "{'role': 'user', 'content': 'text'}."
            )
        read.append(Turn(check_text(role, f"The role of turn {i}"), check_text(content, f"The text of turn {i}")))
    if not read:
        raise InputError("Expected at least one turn, got none.")
    return read


def exchanges(turns: Sequence[Turn]) -> list[tuple[Turn, ...]]:
    """Group turns into exchanges: what a user said with all that answered it.

    Example:
        >>> [len(exchange) for exchange in exchanges([Turn("user", "a"), Turn("assistant", "b"), Turn("user", "c")])]
        [2, 1]
    """
    groups: list[list[Turn]] = []
    for turn in turns:
        if not groups or turn.role == "user":
            groups.append([])
        groups[-1].append(turn)
    return [tuple(group) for group in groups]


def render(turns: Sequence[Turn]) -> str:
    """An exchange as one text, a line a turn."""
    return "\n".join(f"{turn.role.capitalize()}: {turn.content}" for turn in turns)


def query_text(request: str | Sequence[TurnLike], *, history: int = 0) -> str:
    r"""What to search with: a text as it is, or the last user turn behind up to `history` earlier ones.

    Raises:
        InputError: If it is neither a text nor turns with a user's among them.

    Example:
        >>> query_text([("user", "Weather in Oslo?"), ("assistant", "Rain."), ("user", "And Paris?")], history=1)
        'Weather in Oslo?\nAnd Paris?'
    """
    if isinstance(request, str):
        return check_text(request, "The query")
    said = [turn.content for turn in read_turns(request) if turn.role == "user"]
    if not said:
        raise InputError("The turns hold nothing that a user said; expected at least one with the role 'user'.")
    return "\n".join(said[-1 - history :])
