"""The reading model as a LangChain chat model that calls tools with guidance."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any
from uuid import uuid4

from langchain_core.callbacks import CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.messages import AIMessage, BaseMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import ConfigDict

from .reader import Reader

_FILLED = (
    'Request: When is the train from Bern to Rome?\nDeparture city: "Bern"\n\n'
    'Request: Play something by Ella Smith.\nArtist: "Ella Smith"\n\n'
)
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "user"}


class ReaderChat(BaseChatModel):
    """A chat model over a `Reader`.

    A model of 135 million parameters writes no valid call by itself, so its hand is led: which of the offered
    tools it calls is the one whose description makes it find the request most likely, and it writes each required
    argument itself, after two filled ones. What it said on its own stands in the message's content.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True)

    reader: Reader

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
        chat = [{"role": _ROLES[message.type], "content": message.text} for message in messages]
        answered = isinstance(messages[-1], ToolMessage)
        if tools and not answered:
            listed = "\n".join(f"- {tool['name']}: {tool['description']}" for tool in tools)
            chat = [{"role": "system", "content": f"You can call these functions:\n{listed}"}, *chat]
        said = self.reader.reply(chat)
        calls = [] if answered or not tools else [self._call(messages[-1].text, tools)]
        return ChatResult(generations=[ChatGeneration(message=AIMessage(said, tool_calls=calls))])

    def _call(self, request: str, tools: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        def fit(tool: Mapping[str, Any]) -> float:
            prompt = f"Function {tool['name']}: {tool['description']}\nRequest:"
            return self.reader.log_likelihood(prompt, f" {request}")

        tool = max(tools, key=fit)
        schema = tool.get("parameters", {})
        arguments: dict[str, Any] = {}
        for name in schema.get("required", []):
            described = schema["properties"][name].get("description", name)
            prompt = f'{_FILLED}Request: {request}\n{described}: "'
            arguments[name] = self.reader.complete(prompt, max_tokens=16, stop='"')
        return {"name": tool["name"], "args": arguments, "id": uuid4().hex, "type": "tool_call"}
