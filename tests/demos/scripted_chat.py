"""The chat's page with the core's quick embedder and a model that says what it is told, as a process of its own.

It answers `say X` with X, `call NAME {…}` with a call of that tool, and anything else with the memories and passages
that it was shown.
"""

import json
import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from tests.core.conftest import HashingEmbedder

from quadrieve_demos.chat import Companion


class Scripted(BaseChatModel):
    """Says what the user tells it to, word by word, with a pause after each."""

    pause: float = 0.0

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *given: Any, **options: Any) -> ChatResult:
        return ChatResult(generations=[ChatGeneration(message=_answer(messages))])

    def _stream(self, messages: list[BaseMessage], *given: Any, **options: Any) -> Iterator[ChatGenerationChunk]:
        said = _answer(messages)
        if said.tool_calls:
            call = said.tool_calls[0]
            chunk = {"name": call["name"], "args": json.dumps(call["args"]), "id": call["id"], "index": 0}
            yield ChatGenerationChunk(message=AIMessageChunk(content="", tool_call_chunks=[chunk]))
            return
        for word in re.findall(r"\S+\s*|\s+", said.text):
            yield ChatGenerationChunk(message=AIMessageChunk(content=word))
            time.sleep(self.pause)


def _answer(messages: list[BaseMessage]) -> AIMessage:
    last = messages[-1]
    if isinstance(last, ToolMessage):
        return AIMessage(f"Done: {last.text}")
    verb, _, rest = last.text.partition(" ")
    if verb == "say":
        return AIMessage(rest)
    if verb == "call":
        name, _, arguments = rest.partition(" ")
        return AIMessage("", tool_calls=[{"name": name, "args": json.loads(arguments), "id": "1"}])
    shown = re.findall(r'^\{.*"text": "(.*)"\}$', messages[0].text, flags=re.MULTILINE)
    return AIMessage(f"I was shown: {' | '.join(shown)}" if shown else "I know nothing of that.")


def companion(folder: Path, pause: float = 0.0) -> Companion:
    return Companion(folder, HashingEmbedder(), Scripted(pause=pause))


def _serve(folder: str, port: str, pause: str = "0", loading: str = "0") -> None:
    from quadrieve_demos.chat_page import serve

    def load() -> Companion:
        time.sleep(float(loading))
        return companion(Path(folder), float(pause))

    serve(load, "127.0.0.1", int(port))


if __name__ == "__main__":
    import tests.demos.offline  # noqa: F401

    _serve(*sys.argv[1:])
