"""The language model that reads what was retrieved: SmolLM2-135M-Instruct from its package, or any other."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from quadrieve.checkpoint import quiet_transformers
from quadrieve.errors import ModelError
from quadrieve.packaged_lm import unpacked_lm

Message = Mapping[str, str]


class Reader:
    """A causal language model that answers greedily and says how likely it finds a text.

    Args:
        tokenizer: Of transformers, with a chat template.
        model: Of transformers.
    """

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer = tokenizer
        self.model = model

    @classmethod
    def load(cls, model: str | None = None) -> Self:
        """Load a model.

        Args:
            model: A hub id or folder; None is the packaged SmolLM2.

        Raises:
            ModelError: If it cannot be found or read.
        """
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place: str | Path = model or unpacked_lm()
        try:
            with quiet_transformers():
                tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=False)
                weights = AutoModelForCausalLM.from_pretrained(
                    place, dtype=_fast_dtype(), use_safetensors=True, trust_remote_code=False
                )
        except (OSError, ValueError) as error:
            raise ModelError(f"No language model {model!r}: {str(error).strip().splitlines()[0]}") from error
        return cls(tokenizer, weights.eval())

    def reply(self, messages: Sequence[Message], max_tokens: int = 24) -> str:
        """What the model says next in a chat."""
        return self.complete(self.prompt(messages), max_tokens=max_tokens)

    def prompt(self, messages: Sequence[Message]) -> str:
        """The exact text that the model reads for a chat."""
        text: str = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return text

    def stream(self, messages: Sequence[Message], max_tokens: int = 24) -> Iterator[str]:
        """What the model says next in a chat, piece by piece; whoever stops listening stops the model.

        Raises:
            ModelError: If the chat is longer than the model reads.
        """
        import torch

        ids = self.tokenizer(self.prompt(messages), return_tensors="pt", add_special_tokens=False)["input_ids"]
        longest = self.model.config.max_position_embeddings
        if ids.shape[1] + max_tokens > longest:
            raise ModelError(
                f"The prompt has {ids.shape[1]} tokens and the answer up to {max_tokens}, the language model reads "
                f"{longest}; say less at once."
            )
        ends = self.model.generation_config.eos_token_id
        stops = set(ends if isinstance(ends, list) else [ends])
        written: list[int] = []
        said, cache = "", None
        for _ in range(max_tokens):
            with torch.inference_mode():
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
            token, cache = int(out.logits[0, -1].argmax()), out.past_key_values
            if token in stops:
                return
            written.append(token)
            ids = torch.tensor([[token]])
            text: str = self.tokenizer.decode(written, skip_special_tokens=True)
            if not text.endswith("\ufffd"):  # the first bytes of a character whose others are still to come
                yield text[len(said) :]
                said = text

    def complete(self, prompt: str, *, max_tokens: int = 24, stop: str | None = None) -> str:
        """What the model writes after a text, up to and without `stop`."""
        import torch

        inputs = self.tokenizer(prompt, return_tensors="pt", add_special_tokens=False)
        options: dict[str, Any] = {} if stop is None else {"stop_strings": [stop], "tokenizer": self.tokenizer}
        with torch.inference_mode():
            out = self.model.generate(
                **inputs, max_new_tokens=max_tokens, do_sample=False, temperature=None, top_p=None, **options
            )
        text: str = self.tokenizer.decode(out[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True)
        return re.sub(r"\s+", " ", text if stop is None else text.split(stop, maxsplit=1)[0]).strip()

    def log_likelihood(self, prompt: str, text: str) -> float:
        """Mean log-likelihood of a text's tokens behind a prompt, in nats, at most 0."""
        return self.log_likelihoods(prompt, [text])[0]

    def log_likelihoods(self, prompt: str, texts: Sequence[str]) -> list[float]:
        """The same of several texts; the prompt is read once."""
        import torch

        def ids(text: str) -> torch.Tensor:
            read: torch.Tensor = self.tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"]
            return read

        before, likely = ids(prompt), []
        with torch.inference_mode():
            read = self.model(before, use_cache=True, logits_to_keep=1)
            for after in map(ids, texts):
                behind = self.model(after, past_key_values=read.past_key_values, use_cache=True).logits
                logits = torch.cat([read.logits, behind[:, :-1]], dim=1)[0].float().log_softmax(dim=-1)
                likely.append(float(logits.gather(1, after[0][:, None]).mean()))
                read.past_key_values.crop(-after.shape[1])
        return likely

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this model reads it."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _fast_dtype() -> Any:
    import torch

    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
