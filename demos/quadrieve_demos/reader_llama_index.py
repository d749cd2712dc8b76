"""The reading model as LlamaIndex language models: one that completes, and one that calls tools with guidance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    CompletionResponse,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
    ToolCallBlock,
)
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool
from pydantic import ConfigDict

from .guided_call import guided_call
from .reader import Reader

_ROLES = {MessageRole.SYSTEM: "system", MessageRole.ASSISTANT: "assistant"}


class ReaderLLM(CustomLLM):
    """A LlamaIndex language model over a `Reader`."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reader: Reader

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know of the model."""
        return LLMMetadata(context_window=8192, num_output=40, model_name="SmolLM2-135M-Instruct")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt as one user message."""
        del formatted, kwargs
        return CompletionResponse(text=self.reader.reply([{"role": "user", "content": prompt}]))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """The same, as a stream of one part."""
        yield self.complete(prompt, formatted=formatted, **kwargs)


class ReaderFunctionLLM(ReaderLLM, FunctionCallingLLM):
    """The same with tools, whose hand is led to call them: one for each thing that the user says."""

    @property
    def metadata(self) -> LLMMetadata:
        """What LlamaIndex wants to know of the model."""
        return super().metadata.model_copy(update={"is_chat_model": True, "is_function_calling_model": True})

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Call a tool, or answer where there is none or one has answered."""
        tools = kwargs.get("tools")
        if tools and messages[-1].role is not MessageRole.TOOL:
            call = guided_call(self.reader, messages[-1].content or "", tools)
            block = ToolCallBlock(tool_call_id=uuid4().hex, tool_name=call.name, tool_kwargs=call.arguments)
            return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, blocks=[block]))
        chat = [{"role": _ROLES.get(message.role, "user"), "content": message.content or ""} for message in messages]
        return ChatResponse(message=ChatMessage(role=MessageRole.ASSISTANT, content=self.reader.reply(chat)))

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        """The calls of an answer."""
        del error_on_no_tool_call, kwargs
        return [
            ToolSelection(tool_id=block.tool_call_id or "", tool_name=block.tool_name, tool_kwargs=block.tool_kwargs)
            for block in response.message.blocks
            if isinstance(block, ToolCallBlock) and isinstance(block.tool_kwargs, dict)
        ]

    def _prepare_chat_with_tools(
        self,
        tools: Sequence[BaseTool],
        user_msg: str | ChatMessage | None = None,
        chat_history: list[ChatMessage] | None = None,
        verbose: bool = False,
        allow_parallel_tool_calls: bool = False,
        tool_required: bool = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        del verbose, allow_parallel_tool_calls, tool_required, kwargs
        said = [ChatMessage(role="user", content=user_msg) if isinstance(user_msg, str) else user_msg]
        return {
            "messages": [*(chat_history or ()), *filter(None, said)],
            "tools": [tool.metadata.to_openai_tool()["function"] for tool in tools],
        }
