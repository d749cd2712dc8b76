"""The reading model as a LangChain chat model that calls tools with guidance."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import BaseCallbackHandler, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage, ToolMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from quadrieve.errors import ModelError

from .guided_call import guided_call
from .reader import Reader

_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "user"}


class ReaderChat(BaseChatModel):
    """A chat model over a `Reader`, whose hand is led to call tools: one for each thing that the user says."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reader: Reader
    max_tokens: int = 40

    @property
    def _llm_type(self) -> str:
        return "quadrieve-demo-reader"

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Offer tools."""
        del tool_choice
        return self.bind(tools=[convert_to_openai_tool(tool)["function"] for tool in tools], **kwargs)

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
        **kwargs: Any,
    ) -> ChatResult:
        del stop, run_manager, kwargs
        if tools and not isinstance(messages[-1], ToolMessage):
            call = guided_call(self.reader, messages[-1].text, tools)
            message = AIMessage("", tool_calls=[{"name": call.name, "args": call.arguments, "id": uuid4().hex}])
        else:
            message = AIMessage(self.reader.reply(_chat(messages), self.max_tokens))
        return ChatResult(generations=[ChatGeneration(message=message)])

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        if kwargs.get("tools"):  # a call is made whole
            made: Any = self._generate(messages, stop, run_manager, **kwargs).generations[0].message
            calls = [
                tool_call_chunk(name=call["name"], args=json.dumps(call["args"]), id=call["id"], index=index)
                for index, call in enumerate(made.tool_calls)
            ]
            yield ChatGenerationChunk(message=AIMessageChunk(content=made.content, tool_call_chunks=calls))
            return
        for text in self.reader.stream(_chat(messages), self.max_tokens):
            yield ChatGenerationChunk(message=AIMessageChunk(content=text))
            if run_manager:
                run_manager.on_llm_new_token(text)

    def prompt(self, messages: Sequence[BaseMessage]) -> str:
        """The exact text that the model reads for these messages."""
        return self.reader.prompt(_chat(messages))


class SeenPrompt(BaseCallbackHandler):
    """Sees what a chat model reads; `text` is the last of it, exactly so where the model runs here."""

    def __init__(self, model: BaseChatModel) -> None:
        self.model = model
        self.text = ""

    def on_chat_model_start(self, serialized: Any, messages: list[list[BaseMessage]], **kwargs: Any) -> None:
        """Note what is read now."""
        del serialized, kwargs
        read = messages[0]
        exact = self.model.prompt(read) if isinstance(self.model, ReaderChat) else None
        self.text = exact or "\n\n".join(f"[{message.type}]\n{message.text}" for message in read)


def called(messages: Sequence[BaseMessage]) -> list[str]:
    """The calls of tools and what came back, a line each."""
    lines = []
    for message in messages:
        if isinstance(message, AIMessage):
            lines += [f"{call['name']}({json.dumps(call['args'], ensure_ascii=False)})" for call in message.tool_calls]
        elif isinstance(message, ToolMessage):
            lines.append(f"→ {message.text}")
    return lines


def open_chat_model(lm: str | None, max_tokens: int) -> BaseChatModel:
    """Any chat model by one name.

    Args:
        lm: A hub id or folder, run here; `provider:model` for an API, as LangChain names them (`openai:gpt-5`,
            `ollama:qwen3`), whose key is in the provider's environment variable; None is the packaged SmolLM2.
        max_tokens: The longest answer.

    Raises:
        ModelError: If it cannot be found, or its provider's package or key is missing.
    """
    if lm is None or ":" not in lm:
        return ReaderChat(reader=Reader.load(lm), max_tokens=max_tokens)
    from langchain.chat_models import init_chat_model

    try:
        model: BaseChatModel = init_chat_model(lm, max_tokens=max_tokens)
    except Exception as error:  # each provider raises its own when its package or key is missing
        raise ModelError(f"No chat model {lm!r}: {str(error).strip().splitlines()[0]}") from error
    return model


def _chat(messages: Sequence[BaseMessage]) -> list[dict[str, str]]:
    return [{"role": _ROLES[message.type], "content": message.text} for message in messages]
