"""The language model that reads what was retrieved: SmolLM2-135M-Instruct from its package, or any other."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from quadrieve.checkpoint import packaged_lm
from quadrieve.errors import ModelError

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
        from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
        from transformers.utils import logging

        logging.disable_progress_bar()
        logging.set_verbosity_error()
        dtype = _fast_dtype()
        place: str | Path = model or packaged_lm().parent
        options: dict[str, Any] = {"trust_remote_code": False}
        loading: dict[str, Any] = {"dtype": dtype}
        if model is None:
            options["gguf_file"] = packaged_lm().name
            loading["quantization_config"] = GgufConfig(dequantize=True)
        else:
            loading["use_safetensors"] = True
        try:
            with contextlib.redirect_stderr(io.StringIO()):  # the GGUF reader's own progress bar
                tokenizer = AutoTokenizer.from_pretrained(place, **options)
                weights = AutoModelForCausalLM.from_pretrained(place, **options, **loading)
        except (OSError, ValueError) as error:
            raise ModelError(f"No language model {model!r}: {str(error).strip().splitlines()[0]}") from error
        return cls(tokenizer, weights.eval())

    def reply(self, messages: Sequence[Message], max_tokens: int = 40) -> str:
        """What the model says next in a chat."""
        prompt = self.tokenizer.apply_chat_template(list(messages), add_generation_prompt=True, tokenize=False)
        return self.complete(prompt, max_tokens=max_tokens)

    def complete(self, prompt: str, *, max_tokens: int = 40, stop: str | None = None) -> str:
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
        import torch

        before, after = (
            self.tokenizer(part, return_tensors="pt", add_special_tokens=False)["input_ids"] for part in (prompt, text)
        )
        with torch.inference_mode():
            logits = self.model(torch.cat([before, after], dim=1), logits_to_keep=after.shape[1] + 1).logits
        likely = logits[0, :-1].float().log_softmax(dim=-1).gather(1, after[0][:, None])
        return float(likely.mean())

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as this model reads it."""
        return len(self.tokenizer(text, add_special_tokens=False)["input_ids"])


def _fast_dtype() -> Any:
    import torch

    return torch.bfloat16 if torch.cpu._is_avx512_bf16_supported() else torch.float32
