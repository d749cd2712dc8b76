"""The frozen language model whose feedback the embedder learns from: it scores outputs and samples them."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from quadrieve.checkpoint import quiet_transformers
from quadrieve.errors import InputError, ModelError
from quadrieve.packaged_lm import SHA256, unpacked_lm

if TYPE_CHECKING:
    import torch

#: The name of the packaged model, SmolLM2-135M-Instruct.
PACKAGED_NAME = "smollm2"

_ANCHOR = ":"  # put before an output so that tokenizers treat it as a continuation, not as the start of a text


@dataclass(frozen=True, slots=True)
class Prompt:
    r"""A prompt with the retrieved candidate in it, which alone may be shortened to make the prompt fit.

    Attributes:
        before: What stands before the candidate.
        candidate: Cut from its left where prompt and outputs are longer than the model reads.
        after: What follows it, the question for one; never cut.
        opened: The prompt begins with the model's own special tokens (a chat template's), so none are added.

    Example:
        >>> Prompt("Knowledge:\n", "Bees make honey.", "\n\nQ: Who makes honey? A:").text
        'Knowledge:\nBees make honey.\n\nQ: Who makes honey? A:'
    """

    before: str
    candidate: str = ""
    after: str = ""
    opened: bool = False

    @property
    def text(self) -> str:
        """The whole prompt."""
        return self.before + self.candidate + self.after

    @property
    def told(self) -> str:
        """How a message names it: the end of what is never cut."""
        return f"The prompt without its candidate, …{(self.before + self.after)[-100:]!r},"


Request = tuple[str | Prompt, Sequence[str]]


@runtime_checkable
class LanguageModel(Protocol):
    """What rewards need of a language model: `FrozenLM` runs one here, `ServerLM` asks one over HTTP."""

    @property
    def revision(self) -> str:
        """Names the weights: scores under one revision are comparable and are never mixed with another's."""
        ...

    def chat(self, prompt: str | Prompt) -> Prompt:
        """The prompt as a user's message in the model's chat template; as it is where the model has none."""
        ...

    def score(self, prompt: str | Prompt, outputs: Sequence[str]) -> list[float]:
        """Mean log-likelihood per token of each output behind the prompt."""
        ...

    def score_many(self, requests: Sequence[Request]) -> list[list[float]]:
        """`score` for many prompts, in their order."""
        ...

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
        """Continuations of the prompt; the same for the same seed."""
        ...


class FrozenLM:
    """A causal language model of transformers that is only ever read from.

    Outputs behind the same prompt are packed into one row: the prompt is run once and the outputs do not see each
    other. Logits are computed only where an output token is predicted. A model that cannot be packed (one whose state
    is not attention) is noticed at the first call, and its outputs are scored as a padded batch.

    Example:
        >>> from quadrieve_train import FrozenLM
        >>> lm = FrozenLM.load()
        >>> paris, stone = lm.score("The capital of France is", [" Paris", " stone"])
        >>> paris > stone
        True
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str,
        max_length: int | None = None,
        batch_tokens: int | None = None,
        packed: bool | None = None,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.revision = revision
        reads = getattr(model.config, "max_position_embeddings", None) or 2048
        self.max_length = min(max_length or reads, reads)
        self.batch_tokens = batch_tokens or (2048 if self.device.type == "cpu" else 32768)
        self._packed = packed
        self._lock = threading.RLock()

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        gguf_file: str | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        max_length: int | None = None,
        batch_tokens: int | None = None,
    ) -> FrozenLM:
        """Load a model.

        Args:
            model: A hub id, a folder, a `.gguf` file, `"smollm2"` (the packaged SmolLM2-135M-Instruct) or None for it.
            gguf_file: Name of the GGUF file in a hub repository or a folder.
            revision: Commit, tag or branch of a hub id.
            device: `cpu`, `cuda`, …; None takes a GPU where there is one.
            dtype: `auto` is bfloat16 where the device computes in it and float32 elsewhere; or `float32`, `bfloat16`.
            max_length: Tokens of prompt and output together, if fewer than the model reads.
            batch_tokens: Padded tokens in one forward pass.

        Raises:
            ModelError: If the model cannot be found, read or trusted.
            InputError: If an option is not one of the above.
        """
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        place, file, name, identity = _find(model, gguf_file)
        chosen = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        kind = _dtype(dtype, chosen)
        options: dict[str, Any] = {"revision": revision, "trust_remote_code": False}
        if file is not None:
            options["gguf_file"] = file
        else:
            options["use_safetensors"] = True
        try:
            with quiet_transformers():
                weights = AutoModelForCausalLM.from_pretrained(place, dtype=kind, **options)
                options.pop("use_safetensors", None)
                tokenizer = AutoTokenizer.from_pretrained(place, **options)
        except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise ModelError(f"{name!r} cannot be loaded as a causal language model: {reason}") from error
        identity = identity or getattr(weights.config, "_commit_hash", None) or revision or "unknown"
        return cls(
            weights.to(chosen),
            tokenizer,
            name=name,
            revision=f"{name}@{identity[:12]}/{str(kind).removeprefix('torch.')}",
            max_length=max_length,
            batch_tokens=batch_tokens,
        )

    def __repr__(self) -> str:
        return f"FrozenLM({self.revision!r})"

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        device: torch.device = self.model.device
        return device

    def chat(self, prompt: str | Prompt) -> Prompt:
        """The prompt as a user's message in the model's chat template; as it is where the model has none."""
        parts = prompt if isinstance(prompt, Prompt) else Prompt("", after=prompt)
        if not getattr(self.tokenizer, "chat_template", None) or parts.opened:
            return parts
        marker = "\x02prompt\x02"
        message = [{"role": "user", "content": marker}]
        text: str = self.tokenizer.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        head, _, tail = text.partition(marker)
        return replace(parts, before=head + parts.before, after=parts.after + tail, opened=True)

    def score(self, prompt: str | Prompt, outputs: Sequence[str]) -> list[float]:
        """Mean log-likelihood per token of each output behind the prompt.

        Args:
            prompt: A string, or a `Prompt` whose candidate may be shortened.
            outputs: Continuations, taken as they are (a leading space included).

        Raises:
            InputError: If there is no output, one has no tokens or is not in the model's vocabulary, or prompt and
                output are longer than the model reads although no candidate is left to cut.
        """
        return self.score_many([(prompt, outputs)])[0]

    def score_many(self, requests: Sequence[Request]) -> list[list[float]]:
        """`score` for many prompts, in their order: batched by token budget, longest first."""
        encoded = [self._encode(prompt, outputs) for prompt, outputs in requests]
        if self._packed is None:
            with self._lock:
                self._packed = self._packing_works()
        return self._score_packed(encoded) if self._packed else self._score_padded(encoded)

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
        """Draw continuations; the prompt is run once for all of them.

        Args:
            prompt: As in `score`.
            n: How many.
            seed: Draws are the same for the same seed.
            temperature: 0 takes the most likely token each time.
            top_p: Tokens are drawn from the smallest set that holds this much probability.
            max_new_tokens: Longest continuation.
            stop: A continuation ends before the first of these after its first visible character.

        Returns:
            `n` texts without surrounding white space; a text may be empty.
        """
        import torch

        if n < 1 or max_new_tokens < 1 or temperature < 0 or not 0 < top_p <= 1:
            raise InputError(
                "sample needs n and max_new_tokens of at least 1, temperature >= 0 and 0 < top_p <= 1, "
                f"got {n}, {max_new_tokens}, {temperature} and {top_p}."
            )
        ids = self._fit(prompt, max_new_tokens)
        generator = torch.Generator().manual_seed(seed)
        drawn: list[list[int]] = [[] for _ in range(n)]
        texts, ended = [""] * n, [False] * n
        ends = _end_tokens(self.model, self.tokenizer)
        with self._lock, torch.inference_mode():
            run = self.model(input_ids=torch.tensor([ids], device=self.device), use_cache=True, logits_to_keep=1)
            cache = run.past_key_values
            cache.batch_repeat_interleave(n)
            logits = run.logits[:, -1].expand(n, -1)
            for _ in range(max_new_tokens):
                tokens = _draw(logits.float().cpu(), temperature, top_p, generator)
                for i, token in enumerate(tokens):
                    if not ended[i] and token not in ends:
                        drawn[i].append(token)
                        texts[i], ended[i] = _until(self.tokenizer.decode(drawn[i]), stop)
                    else:
                        ended[i] = True
                if all(ended):
                    break
                step = torch.tensor(tokens, device=self.device).unsqueeze(1)
                run = self.model(input_ids=step, past_key_values=cache, use_cache=True, logits_to_keep=1)
                cache, logits = run.past_key_values, run.logits[:, -1]
        return texts

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, without special tokens."""
        return len(self._tokenize(text))

    def _tokenize(self, text: str, *, special: bool = False) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return ids

    def _encode(self, prompt: str | Prompt, outputs: Sequence[str]) -> _Encoded:
        if isinstance(outputs, str) or not outputs:
            raise InputError("Expected a list of at least one output to score.")
        # A prompt's trailing space belongs to the output's first token.
        parts = prompt if isinstance(prompt, Prompt) else Prompt("", after=prompt)
        stripped = parts.after.rstrip(" ")
        spaces = parts.after[len(stripped) :]
        tokens = tuple(tuple(self._output_ids(spaces + output)) for output in outputs)
        ids = self._fit(replace(parts, after=stripped), max(len(output) for output in tokens))
        return _Encoded(tuple(ids), tokens)

    def _output_ids(self, output: str) -> list[int]:
        anchor = self._tokenize(_ANCHOR)
        ids = self._tokenize(_ANCHOR + output)
        ids = ids[len(anchor) :] if ids[: len(anchor)] == anchor else self._tokenize(output)
        unknown = self.tokenizer.unk_token_id
        rows = self.model.get_input_embeddings().weight.shape[0]
        if not ids or (unknown in ids and unknown is not None) or max(ids) >= rows:
            raise InputError(
                f"{self.name} cannot score the output {output[:80]!r}: its vocabulary has no tokens for it; "
                "drop the row or take another language model."
            )
        return ids

    def _fit(self, prompt: str | Prompt, room: int) -> list[int]:
        """Tokens of the prompt, its candidate cut from the left until `room` more tokens fit behind it."""
        parts = prompt if isinstance(prompt, Prompt) else Prompt("", after=prompt)
        ids = self._tokenize(parts.text, special=not parts.opened)
        over = len(ids) + room - self.max_length
        if over <= 0 and ids:
            return ids
        if not ids:
            raise InputError("The prompt has no tokens; expected at least one.")
        if parts.candidate:
            encoding = self.tokenizer(
                parts.candidate, add_special_tokens=False, return_offsets_mapping=True, verbose=False
            )
            offsets = encoding["offset_mapping"]
            # Where the cut makes other tokens than before, a few more go.
            for extra in (0, 1, 2, 4, 8, len(offsets)):
                kept = parts.candidate[offsets[over + extra][0] :] if over + extra < len(offsets) else ""
                ids = self._tokenize(parts.before + kept + parts.after, special=not parts.opened)
                if len(ids) + room <= self.max_length:
                    return ids
        raise InputError(
            f"{parts.told} has {len(ids)} tokens, and the longest output {room}; they do not fit into the "
            f"{self.max_length} tokens that {self.name} is to read. Shorten the question or raise max_length."
        )

    def _packing_works(self) -> bool:
        probe = [self._encode("The sky is", [" blue today", " grey"])]
        try:
            packed = self._score_packed(probe)[0]
        except (RuntimeError, ValueError, TypeError):
            return False
        return all(abs(a - b) < 0.05 for a, b in zip(packed, self._score_padded(probe)[0], strict=True))

    def _score_packed(self, encoded: Sequence[_Encoded]) -> list[list[float]]:
        import numpy as np
        import torch

        results: list[list[float]] = [[]] * len(encoded)
        for chosen in _by_budget([request.packed_length for request in encoded], self.batch_tokens):
            width = encoded[chosen[0]].packed_length
            ids = np.zeros((len(chosen), width), dtype=np.int64)
            positions = np.zeros_like(ids)
            blocks = np.full((len(chosen), width), -1, dtype=np.int64)  # 0 prompt, 1.. outputs, -1 padding
            reads: list[tuple[int, int, int]] = []
            for row, request in enumerate(encoded[i] for i in chosen):
                at = start = len(request.prompt)
                ids[row, :at], positions[row, :at], blocks[row, :at] = request.prompt, range(at), 0
                for number, output in enumerate(request.outputs, start=1):
                    end = at + len(output) - 1  # the last token is predicted, not read
                    ids[row, at:end], blocks[row, at:end] = output[:-1], number
                    positions[row, at:end] = range(start, start + end - at)
                    places = [start - 1, *range(at, end)]
                    reads += [(row, place, token) for place, token in zip(places, output, strict=True)]
                    at = end
            likelihoods = self._log_likelihoods(
                torch.from_numpy(ids), torch.from_numpy(positions), self._block_mask(torch.from_numpy(blocks)), reads
            )
            _means(likelihoods, encoded, chosen, results)
        return results

    def _score_padded(self, encoded: Sequence[_Encoded]) -> list[list[float]]:
        """Every output behind its own copy of the prompt."""
        import torch

        rows = [_Encoded(request.prompt, (output,)) for request in encoded for output in request.outputs]
        results: list[list[float]] = [[]] * len(rows)
        for chosen in _by_budget([row.packed_length for row in rows], self.batch_tokens):
            width = rows[chosen[0]].packed_length
            ids = torch.zeros(len(chosen), width, dtype=torch.long)
            mask = torch.zeros_like(ids)
            reads: list[tuple[int, int, int]] = []
            for row, request in enumerate(rows[i] for i in chosen):
                output = request.outputs[0]
                tokens = (*request.prompt, *output[:-1])
                ids[row, : len(tokens)] = torch.tensor(tokens)
                mask[row, : len(tokens)] = 1
                reads += [(row, len(request.prompt) - 1 + k, token) for k, token in enumerate(output)]
            positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
            _means(self._log_likelihoods(ids, positions, mask, reads), rows, chosen, results)
        flat = iter(results)
        return [[next(flat)[0] for _ in request.outputs] for request in encoded]

    def _block_mask(self, blocks: torch.Tensor) -> torch.Tensor:
        """Additive `[rows, 1, width, width]`: a token sees the prompt and its own output, up to itself."""
        import torch

        same = blocks.unsqueeze(2) == blocks.unsqueeze(1)
        seen = (same | (blocks == 0).unsqueeze(1)).tril()
        dtype = self.model.dtype
        mask = torch.zeros(seen.shape, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
        return mask.unsqueeze(1)

    def _log_likelihoods(
        self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, reads: Sequence[tuple[int, int, int]]
    ) -> list[float]:
        """Log-likelihood of each (row, position, token): what the model expects after that position."""
        import torch

        rows, places, tokens = torch.tensor(reads, device=self.device).T
        # Positions that several outputs read from, the end of the prompt, are computed once.
        flat, back = torch.unique(rows * ids.shape[1] + places, return_inverse=True)

        def pick(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            return (inputs[0].flatten(0, 1)[flat].unsqueeze(0), *inputs[1:])

        with self._lock, torch.inference_mode():
            hook = self.model.get_output_embeddings().register_forward_pre_hook(pick)
            try:
                logits = self.model(
                    input_ids=ids.to(self.device),
                    position_ids=positions.to(self.device),
                    attention_mask=mask.to(self.device),
                    use_cache=False,
                ).logits[0]
            finally:
                hook.remove()
            normalisers = torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(256)])
            likelihoods: list[float] = (logits[back, tokens].float() - normalisers[back]).tolist()
        return likelihoods


@dataclass(frozen=True, slots=True)
class _Encoded:
    prompt: tuple[int, ...]
    outputs: tuple[tuple[int, ...], ...]

    @property
    def packed_length(self) -> int:
        return len(self.prompt) + sum(len(output) - 1 for output in self.outputs)


def _by_budget(lengths: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Indices, longest first, in batches of at most `budget` padded tokens (or one row)."""
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    at = 0
    while at < len(order):
        rows = max(1, budget // max(1, lengths[order[at]]))
        yield order[at : at + rows]
        at += rows


def _means(
    likelihoods: Sequence[float], encoded: Sequence[_Encoded], chosen: Sequence[int], results: list[list[float]]
) -> None:
    """Mean likelihood of each output's tokens, into the results of the chosen requests."""
    at = 0
    for i in chosen:
        results[i] = []
        for output in encoded[i].outputs:
            results[i].append(sum(likelihoods[at : at + len(output)]) / len(output))
            at += len(output)


def _draw(logits: torch.Tensor, temperature: float, top_p: float, generator: torch.Generator) -> list[int]:
    import torch

    if temperature == 0:
        return [int(token) for token in logits.argmax(dim=-1)]
    probabilities, tokens = (logits / temperature).softmax(dim=-1).sort(dim=-1, descending=True)
    before = probabilities.cumsum(dim=-1) - probabilities
    places = torch.multinomial(probabilities.masked_fill(before >= top_p, 0.0), 1, generator=generator)
    return [int(token) for token in tokens.gather(1, places)[:, 0]]


def _until(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """The text up to the first stop after its first visible character, and whether there was one."""
    begun = text.lstrip()
    found = [at for mark in stop if (at := begun.find(mark)) >= 0]
    return (begun[: min(found)] if found else begun).strip(), bool(found)


def _end_tokens(model: Any, tokenizer: Any) -> set[int]:
    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = configured if isinstance(configured, list) else [configured]
    # No special token is text: a model that draws one has ended, whatever it is for, and its name could not be scored.
    return {end for end in (*ends, *tokenizer.all_special_ids) if end is not None}


def _find(model: str | os.PathLike[str] | None, gguf_file: str | None) -> tuple[str, str | None, str, str | None]:
    """Place, GGUF file, name and, where the files are here, a hash that names the weights."""
    if model is None or str(model) == PACKAGED_NAME:
        return str(unpacked_lm()), None, PACKAGED_NAME, SHA256
    place = Path(os.fspath(model)).expanduser()
    if place.suffix == ".gguf" and place.is_file():
        return str(place.parent), place.name, place.stem, _hash_files([place])
    if place.is_dir():
        if gguf_file is not None:
            return str(place), gguf_file, place.resolve().name, _hash_files([place / gguf_file])
        weights = sorted(place.glob("*.safetensors"))
        if not weights:
            raise ModelError(
                f"{str(place)!r} has no safetensors weights; save the model with them, or name its gguf_file."
            )
        return str(place), None, place.resolve().name, _hash_files(weights)
    if place.is_absolute() or str(model).startswith((".", "~")) or place.suffix == ".gguf":
        raise ModelError(f"No language model at {str(model)!r}: expected a folder or a .gguf file.")
    return str(model), gguf_file, str(model), None


def _hash_files(files: Sequence[Path]) -> str:
    """Hash of each file's size, first and last megabyte: enough to tell weights apart, quick at any size."""
    digest = hashlib.sha256()
    for file in files:
        if not file.is_file():
            raise ModelError(f"No file {str(file)!r}.")
        size = file.stat().st_size
        digest.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as content:
            digest.update(content.read(1 << 20))
            content.seek(max(0, size - (1 << 20)))
            digest.update(content.read())
    return digest.hexdigest()


def _dtype(dtype: str, device: torch.device) -> torch.dtype:
    import torch

    if dtype == "auto":
        if device.type == "cuda":
            fast = torch.cuda.is_bf16_supported()
        else:
            fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
        return torch.bfloat16 if fast else torch.float32
    if dtype == "float16" and device.type == "cpu":
        raise InputError("dtype='float16' on a CPU is a hundred times slower; use 'auto', 'bfloat16' or 'float32'.")
    if dtype not in ("float32", "bfloat16", "float16"):
        raise InputError(f"Unknown dtype {dtype!r}; expected 'auto', 'float32', 'bfloat16' or 'float16'.")
    chosen: torch.dtype = getattr(torch, dtype)
    return chosen
