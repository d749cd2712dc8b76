"""Language models that say what a test has written for them."""

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, ChatResponse, CompletionResponse, LLMMetadata, ToolCallBlock
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms.function_calling import FunctionCallingLLM
from llama_index.core.llms.llm import ToolSelection
from llama_index.core.tools import BaseTool

#: From the names on offer and the messages to what is answered: a text, or the name and arguments of a tool.
Script = Callable[[list[str], Sequence[ChatMessage]], "str | tuple[str, dict[str, Any]]"]


class ScriptedLLM(FunctionCallingLLM):
    """A function-calling model that follows a script and keeps what it was given."""

    script: Any
    offered: list[list[str]] = Field(default_factory=list)
    prompts: list[list[ChatMessage]] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(is_function_calling_model=True, is_chat_model=True, context_window=100_000)

    def _prepare_chat_with_tools(self, tools: Sequence[BaseTool], **kwargs: Any) -> dict[str, Any]:
        user, history = kwargs.get("user_msg"), list(kwargs.get("chat_history") or ())
        if user is not None:
            history.append(ChatMessage(role="user", content=user) if isinstance(user, str) else user)
        return {"messages": history, "tools": [tool.metadata.get_name() for tool in tools]}

    def get_tool_calls_from_response(
        self, response: ChatResponse, error_on_no_tool_call: bool = True, **kwargs: Any
    ) -> list[ToolSelection]:
        blocks = [block for block in response.message.blocks if isinstance(block, ToolCallBlock)]
        return [
            ToolSelection(tool_id=str(b.tool_call_id), tool_name=b.tool_name, tool_kwargs=dict(b.tool_kwargs))  # type: ignore[arg-type] # the script's own
            for b in blocks
        ]

    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        names = kwargs.get("tools") or []
        self.offered.append(names)
        self.prompts.append(list(messages))
        said = self.script(names, messages)
        if isinstance(said, str):
            return ChatResponse(message=ChatMessage(role="assistant", content=said), delta=said)
        call = ToolCallBlock(tool_call_id=f"call-{len(self.offered)}", tool_name=said[0], tool_kwargs=said[1])
        return ChatResponse(message=ChatMessage(role="assistant", blocks=[call]))

    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        return self.chat(messages, **kwargs)

    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> AsyncIterator[ChatResponse]:
        async def stream() -> AsyncIterator[ChatResponse]:
            yield self.chat(messages, **kwargs)

        return stream()

    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> Any:
        return iter([self.chat(messages, **kwargs)])

    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        answer = self.script([], [ChatMessage(role="user", content=prompt)])
        return CompletionResponse(text=str(answer))

    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        return self.complete(prompt)

    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        return iter([self.complete(prompt)])

    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> Any:
        async def stream() -> AsyncIterator[CompletionResponse]:
            yield self.complete(prompt)

        return stream()
