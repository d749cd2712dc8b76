"""Which messages of a conversation a user said."""

from __future__ import annotations

from langchain_core.messages import AnyMessage, HumanMessage


def said_by_user(message: AnyMessage) -> bool:
    """Whether a user said something in a message: other middleware puts its summaries into human messages too.

    Example:
        >>> said_by_user(HumanMessage("Hello.")), said_by_user(HumanMessage([{"type": "image", "base64": "…"}]))
        (True, False)
        >>> said_by_user(HumanMessage("The user said hello.", additional_kwargs={"lc_source": "summarization"}))
        False
    """
    return (
        isinstance(message, HumanMessage)
        and bool(message.text.strip())
        and "lc_source" not in message.additional_kwargs
    )
