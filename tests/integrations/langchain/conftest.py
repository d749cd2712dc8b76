"""The embedder, and a chat model that does what its script says and keeps what it was shown."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool
from pydantic import Field

from quadrieve import Embedder


class ScriptedChatModel(BaseChatModel):
    """Answers with what `script` makes of the messages and the names of the offered tools."""

    script: Callable[[list[BaseMessage], list[str]], AIMessage]
    prompts: list[list[BaseMessage]] = Field(default_factory=list)
    offers: list[list[str]] = Field(default_factory=list)
    tools: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> ScriptedChatModel:
        # Copies share the lists, so that the caller sees what every bound copy was shown.
        return ScriptedChatModel.model_construct(
            script=self.script, prompts=self.prompts, offers=self.offers, tools=list(tools)
        )

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        names = [tool.name if isinstance(tool, BaseTool) else tool.get("name", tool.get("type")) for tool in self.tools]
        self.prompts.append(messages)
        self.offers.append(names)
        return ChatResult(generations=[ChatGeneration(message=self.script(messages, names))])


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Encode single sentences on one core: two that wait for each other are far slower beside a busy neighbour."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def embedder() -> Embedder:
    return Embedder.load()


@pytest.fixture
def scripted() -> Callable[..., ScriptedChatModel]:
    return lambda script: ScriptedChatModel(script=script)
