"""A language model behind an OpenAI-compatible server that returns the log-probabilities of a prompt, such as vLLM."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from quadrieve.errors import InputError, ModelError

from .lm import Prompt, Request


class ServerLM:
    """Scores and samples through `POST /v1/completions`; the same calls as `FrozenLM`.

    Outputs are scored by echoing prompt and output with log-probabilities (`echo`, `logprobs`), which vLLM and other
    servers of the completions interface answer; a server's prefix cache then runs the prompt once. Prompts are sent
    as text, and servers put no chat template around completions: `chat` leaves prompts as they are.

    Args:
        url: Of the server, `http://host:8000` or `http://host:8000/v1`.
        model: Name of the model there; None for the only one that it serves.
        revision: Names the weights in the reward store; None for url and model.
        max_chars: Longest prompt in characters; candidates are cut from the left to fit.
        parallel: Requests in flight.
        api_key: Sent as a bearer token.
        timeout: Seconds to wait for an answer.

    Raises:
        ModelError: If the server cannot be reached, or serves several models and none is named.
    """

    def __init__(
        self,
        url: str,
        model: str | None = None,
        *,
        revision: str | None = None,
        max_chars: int | None = None,
        parallel: int = 8,
        api_key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        import httpx

        base = url.rstrip("/").removesuffix("/v1")
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._client = httpx.Client(base_url=base, headers=headers, timeout=timeout)
        self.name = model or self._only_model(base)
        self.revision = revision or f"{self.name}@{base}"
        self._max_chars, self._parallel = max_chars, parallel

    def __repr__(self) -> str:
        return f"ServerLM({self.revision!r})"

    def chat(self, prompt: str | Prompt) -> Prompt:
        """The prompt as it is."""
        return prompt if isinstance(prompt, Prompt) else Prompt("", after=prompt)

    def score(self, prompt: str | Prompt, outputs: Sequence[str]) -> list[float]:
        """Mean log-likelihood per token of each output behind the prompt.

        Raises:
            InputError: If there is no output, or one has no tokens of its own.
            ModelError: If the server fails or does not return log-probabilities of the prompt.
        """
        return self.score_many([(prompt, outputs)])[0]

    def score_many(self, requests: Sequence[Request]) -> list[list[float]]:
        """`score` for many prompts, several requests at a time."""
        with ThreadPoolExecutor(self._parallel) as pool:
            return list(pool.map(self._score_one, requests))

    def sample(
        self,
        prompt: str | Prompt,
        n: int,
        seed: int,
        *,
        temperature: float = 1.0,
        top_p: float = 0.95,
        max_new_tokens: int = 32,
        stop: Sequence[str] = ("\n",),
    ) -> list[str]:
        """Draw `n` continuations; the same for the same seed where the server keeps seeds."""
        answer = self._post(
            prompt=self._fit(prompt),
            n=n,
            seed=seed,
            temperature=temperature,
            top_p=top_p,
            max_tokens=max_new_tokens,
            stop=list(stop) or None,
        )
        return [str(choice["text"]).strip() for choice in answer["choices"]]

    def _score_one(self, request: Request) -> list[float]:
        prompt, outputs = request
        if isinstance(outputs, str) or not outputs:
            raise InputError("Expected a list of at least one output to score.")
        text = self._fit(prompt)
        stripped = text.rstrip(" ")  # a trailing space belongs to the output's first token
        wholes = [text + output for output in outputs]
        answer = self._post(prompt=wholes, echo=True, logprobs=1, max_tokens=0, temperature=0.0)
        choices = sorted(answer["choices"], key=lambda choice: choice["index"])
        return [
            _mean_behind(len(stripped), choice, whole, self.name) for choice, whole in zip(choices, wholes, strict=True)
        ]

    def _fit(self, prompt: str | Prompt) -> str:
        parts = self.chat(prompt)
        over = len(parts.text) - self._max_chars if self._max_chars is not None else 0
        if over <= 0:
            return parts.text
        if over > len(parts.candidate):
            raise InputError(
                f"{parts.told} has {len(parts.text) - len(parts.candidate)} characters, and "
                f"max_chars is {self._max_chars}; shorten the question or raise max_chars."
            )
        return parts.before + parts.candidate[over:] + parts.after

    def _post(self, **fields: Any) -> dict[str, Any]:
        import httpx

        try:
            response = self._client.post("/v1/completions", json={"model": self.name, **fields})
        except httpx.HTTPError as error:
            raise ModelError(f"The language model server did not answer: {type(error).__name__}: {error}.") from error
        if response.status_code != 200:
            raise ModelError(f"The language model server answered {response.status_code}: {response.text[:200]}")
        answer: dict[str, Any] = response.json()
        return answer

    def _only_model(self, base: str) -> str:
        import httpx

        try:
            names = [str(entry["id"]) for entry in self._client.get("/v1/models").raise_for_status().json()["data"]]
        except (httpx.HTTPError, KeyError, ValueError) as error:
            raise ModelError(
                f"No OpenAI-compatible server answers at {base}: {type(error).__name__}: {error}."
            ) from error
        if len(names) != 1:
            raise ModelError(f"The server at {base} serves {', '.join(names) or 'no model'}; name one with model=….")
        return names[0]


def _mean_behind(start: int, choice: dict[str, Any], whole: str, name: str) -> float:
    """Mean log-probability of the tokens that reach beyond the prompt's `start` characters."""
    found = choice.get("logprobs") or {}
    values, offsets = found.get("token_logprobs"), found.get("text_offset")
    if not values or not offsets:
        raise ModelError(
            f"The server of {name} returned no log-probabilities of the prompt; start it so that `echo` with "
            "`logprobs` is answered (vLLM does)."
        )
    ends = [*offsets[1:], len(whole)]
    own = [float(value) for value, end in zip(values, ends, strict=False) if end > start and value is not None]
    if not own:
        raise InputError(f"{name} cannot score the output {whole[start:][:80]!r}: it has no tokens of its own.")
    return sum(own) / len(own)
