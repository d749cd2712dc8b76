"""The reading model as a LlamaIndex language model."""

from __future__ import annotations

from typing import Any

from llama_index.core.base.llms.types import CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback
from pydantic import ConfigDict

from .reader import Reader


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
