"""One set of weights, and a view of it for each task: the two sides of a retrieval, each with its prefix."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .errors import InputError, ModelError
from .roles import Role, Task, find_task

if TYPE_CHECKING:
    import torch

Vectors = NDArray[np.float32]
Side = Literal["query", "key"]
OnLong = Literal["warn", "error", "split"]

_DTYPES = ("auto", "float32", "bfloat16", "float16")
_SLAB = 4096  # texts tokenised at a time, so that memory stays bounded however many there are


@runtime_checkable
class ViewLike(Protocol):
    """The two sides of one task: what an index needs of an embedder. An API client can be one."""

    @property
    def fingerprint(self) -> str:
        """Changes whenever the same text would get another vector."""
        ...

    @property
    def dim(self) -> int:
        """Length of a vector."""
        ...

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`, in input order."""
        ...

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`, in input order."""
        ...

    def explain(self, text: str, side: Side = "query") -> str:
        """The exact string that is encoded."""
        ...


@runtime_checkable
class EmbedderLike(Protocol):
    """Anything that gives a view for a task works wherever an embedder is asked for."""

    def view(self, task: Role | str) -> ViewLike:
        """The view of a role or a task."""
        ...


class RoleView:
    """One task's two sides over an embedder's weights.

    Get one from `Embedder.view`. Views hold no weights of their own and may be used from any thread.

    Example:
        >>> from quadrieve import Embedder
        >>> view = Embedder.load().view("tool")
        >>> view.embed_queries(["What is the weather in Oslo?"]).shape
        (1, 384)
    """

    def __init__(self, embedder: Embedder, task: Task) -> None:
        self.embedder = embedder
        self.task = task
        self._prefixes: dict[Side, str] = {"query": embedder.prefix(task, "query"), "key": embedder.prefix(task, "key")}

    def __repr__(self) -> str:
        return f"RoleView(task={self.task.name!r}, model={self.embedder.name!r})"

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.embedder.dim

    @property
    def fingerprint(self) -> str:
        """Hash of weights, pooling, prefixes, dimension and max length: equal if and only if vectors mean the same.

        The type in which the weights are computed (bf16 or fp32) is not part of it.
        """
        return self.embedder.fingerprint(self._prefixes["query"], self._prefixes["key"])

    @property
    def word_rate(self) -> float | None:
        """What a unit of BM25 is worth beside this view, where its model says; see `Fusion.rate`."""
        return self.embedder.checkpoint.word_rates.get(self.task.name)

    def explain(self, text: str, side: Side = "query") -> str:
        """The exact string that is encoded for a text on that side.

        Example:
            >>> from quadrieve import Embedder
            >>> Embedder.load("minilm").view("qa").explain("Who?", side="key")  # trained without prefixes
            'Who?'
        """
        if side not in self._prefixes:
            raise InputError(f"Unknown side {side!r}; expected 'query' or 'key'.")
        return self._prefixes[side] + text

    def embed_queries(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
        on_long: OnLong = "warn",
    ) -> Vectors:
        """Encode the asking side.

        Args:
            texts: At least one text.
            batch_tokens: Padded tokens in one forward pass; None for a default that suits the device.
            progress: Show a progress bar on stderr.
            on_long: What to do with a text of more tokens than the model reads: `warn` cuts its end and
                says so, `error` refuses, `split` encodes its parts and takes their mean.

        Returns:
            float32 `[n, dim]`, rows of unit length, in input order.

        Raises:
            InputError: If a text is no string or cannot be encoded, there is none, or one is too long under `error`.
        """
        return self._embed(texts, "query", batch_tokens, progress, on_long)

    def embed_keys(
        self,
        texts: Sequence[str],
        *,
        batch_tokens: int | None = None,
        progress: bool = False,
        on_long: OnLong = "warn",
    ) -> Vectors:
        """Encode the side that is searched: passages, past turns, examples, tool descriptions.

        Takes and returns what `embed_queries` does.
        """
        return self._embed(texts, "key", batch_tokens, progress, on_long)

    def _embed(
        self, texts: Iterable[str], side: Side, batch_tokens: int | None, progress: bool, on_long: OnLong
    ) -> Vectors:
        prefix = self._prefixes[side]
        return self.embedder.encode(
            check_texts(texts), prefix=prefix, batch_tokens=batch_tokens, progress=progress, on_long=on_long
        )


class Embedder:
    """A text encoder's weights, loaded once at the first use and shared by all of its views.

    Thread-safe. Pickling keeps the checkpoint's place, not the weights; they are loaded again where it is opened.

    Example:
        >>> from quadrieve import Embedder, Role
        >>> embedder = Embedder.load()
        >>> keys = embedder.view(Role.KNOWLEDGE).embed_keys(["Bees make honey.", "The bus leaves at nine."])
        >>> query = embedder.view(Role.KNOWLEDGE).embed_queries(["Where does honey come from?"])
        >>> int(embedder.similarity(query, keys).argmax())
        0
    """

    def __init__(self, checkpoint: Checkpoint, *, device: str | None = None, dtype: str = "auto") -> None:
        self.checkpoint = checkpoint
        self._device = device
        self._dtype = dtype
        self._lock = threading.Lock()
        self._encoder: _Encoder | None = None

    @classmethod
    def load(
        cls,
        model: str | os.PathLike[str] | None = None,
        *,
        revision: str | None = None,
        device: str | None = None,
        dtype: str = "auto",
        backend: str = "auto",
        max_length: int | None = None,
    ) -> Embedder:
        """Find a model and read how it is to be used; its weights are loaded when the first text comes.

        Args:
            model: A hub id, a folder in transformers or sentence-transformers layout, `"minilm"` (the packaged
                backbone as it is), or None: `$QUADRIEVE_MODEL`, else the packaged default.
            revision: Commit, tag or branch of a hub id.
            device: `cpu`, `cuda`, `cuda:1`, `mps`; None takes a GPU where there is one.
            dtype: `auto` computes in bfloat16 where the device has it and in float32 elsewhere; or one of
                `float32`, `bfloat16`, `float16` (not on a CPU, where it is a hundred times slower).
            backend: `auto` or `torch`.
            max_length: Tokens that a text may have, if fewer than the model reads.

        Raises:
            ModelError: If the model cannot be found, read or trusted.
            InputError: If an option is not one of the above.
        """
        if dtype not in _DTYPES:
            raise InputError(f"Unknown dtype {dtype!r}; expected one of {', '.join(_DTYPES)}.")
        if backend not in ("auto", "torch"):
            raise InputError(f"Unknown backend {backend!r}; expected 'auto' or 'torch'.")
        if dtype == "float16" and (device or "").startswith("cpu"):
            raise InputError("dtype='float16' on a CPU is a hundred times slower; use 'auto', 'bfloat16' or 'float32'.")
        checkpoint = checkpoints.find(model, revision=revision)
        if max_length is not None:
            if not 8 <= max_length <= checkpoint.max_length:
                raise InputError(
                    f"max_length={max_length}: {checkpoint.name} reads 8 to {checkpoint.max_length} tokens."
                )
            checkpoint = replace(checkpoint, max_length=max_length)
        return cls(checkpoint, device=device, dtype=dtype)

    def __repr__(self) -> str:
        return f"Embedder({self.name!r}, dim={self.dim})"

    def __getstate__(self) -> dict[str, Any]:
        return {"checkpoint": self.checkpoint, "device": self._device, "dtype": self._dtype}

    def __setstate__(self, state: dict[str, Any]) -> None:
        Embedder.__init__(self, state["checkpoint"], device=state["device"], dtype=state["dtype"])

    @property
    def name(self) -> str:
        """What a person calls the model: a hub id, a folder's name, `minilm`."""
        return self.checkpoint.name

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.checkpoint.dim

    def view(self, task: Role | str) -> RoleView:
        """The two sides of a role or a task over these weights; costs nothing.

        Raises:
            InputError: If no role or task has that name.
        """
        return RoleView(self, find_task(task))

    def prefix(self, task: Task, side: Side) -> str:
        """The prefix of a task's side: what the weights were trained with, else the task's own.

        Weights that were trained without any prefix get none.
        """
        prompts = self.checkpoint.prompts
        if not any(name.endswith(("_query", "_key")) for name in prompts):
            return ""
        return prompts.get(f"{task.name}_{side}", task.query_prefix if side == "query" else task.key_prefix)

    def fingerprint(self, query_prefix: str, key_prefix: str) -> str:
        """Hash of everything that decides which vector a text gets under these prefixes."""
        parts = {
            "weights": self.checkpoint.weights_hash(),
            "pooling": self.checkpoint.pooling,
            "query_prefix": query_prefix,
            "key_prefix": key_prefix,
            "dim": self.dim,
            "max_length": self.checkpoint.max_length,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]

    def similarity(self, a: ArrayLike, b: ArrayLike) -> Vectors:
        """Cosine of every row of `a` `[n, dim]` with every row of `b` `[m, dim]`: `[n, m]`, in [-1, 1]."""
        left, right = (_unit_rows(np.atleast_2d(np.asarray(rows, dtype=np.float32))) for rows in (a, b))
        cosines: Vectors = np.clip(left @ right.T, -1.0, 1.0)
        return cosines

    def count_tokens(self, text: str) -> int:
        """Tokens of a text as these weights read it, special tokens included."""
        return self._load().lengths([text])[0]

    def save(self, folder: str | os.PathLike[str], *, overwrite: bool = False) -> None:
        """Write a folder that `SentenceTransformer(folder)` and `Embedder.load(folder)` open with equal vectors.

        Raises:
            InputError: If the folder is not empty and `overwrite` is false.
        """
        checkpoints.write(self.checkpoint, folder, overwrite=overwrite)

    def encode(
        self,
        texts: Sequence[str],
        *,
        prefix: str = "",
        batch_tokens: int | None = None,
        progress: bool = False,
        on_long: OnLong = "warn",
    ) -> Vectors:
        """Encode texts behind a prefix of the caller's own; views are the usual way.

        Takes and returns what `RoleView.embed_queries` does.
        """
        if on_long not in ("warn", "error", "split"):
            raise InputError(f"Unknown on_long {on_long!r}; expected 'warn', 'error' or 'split'.")
        if batch_tokens is not None and batch_tokens < 1:
            raise InputError(f"batch_tokens must be at least 1, got {batch_tokens}.")
        encoder = self._load()
        return encoder.encode(check_texts(texts), prefix, batch_tokens or encoder.batch_tokens, progress, on_long)

    def _load(self) -> _Encoder:
        with self._lock:
            if self._encoder is None:
                self._encoder = _Encoder(self.checkpoint, self._device, self._dtype)
            return self._encoder


class _Encoder:
    """Tokenizer and model in memory. Forward passes may run side by side; the tokenizer takes turns."""

    def __init__(self, checkpoint: Checkpoint, device: str | None, dtype: str) -> None:
        import torch

        self.checkpoint = checkpoint
        self.device = torch.device(device or _best_device())
        self.dtype = _choose_dtype(dtype, self.device)
        self.batch_tokens = 2048 if self.device.type == "cpu" else 65536
        self.tokenizer, self.model = _read_model(checkpoint, self.dtype)
        self.model.eval().requires_grad_(False).to(self.device)
        self._turn = threading.Lock()
        self._pad = self.tokenizer.pad_token_id or 0

    def lengths(self, texts: Sequence[str]) -> list[int]:
        return [len(ids) for ids in self._tokenize(texts)]

    def encode(self, texts: list[str], prefix: str, batch_tokens: int, progress: bool, on_long: OnLong) -> Vectors:
        from tqdm.auto import tqdm

        out = np.empty((len(texts), self.checkpoint.dim), dtype=np.float32)
        cut = 0
        with tqdm(total=len(texts), unit="text", desc="Encoding", disable=not progress) as bar:
            for start in range(0, len(texts), _SLAB):
                slab = texts[start : start + _SLAB]
                tokens = self._tokenize([prefix + text for text in slab])
                long = [i for i, ids in enumerate(tokens) if len(ids) > self.checkpoint.max_length]
                if long and on_long == "error":
                    first = long[0]
                    raise InputError(
                        f"Text {start + first} has {len(tokens[first])} tokens, {self.checkpoint.name} reads "
                        f"{self.checkpoint.max_length}; shorten it, or pass on_long='split' or 'warn'."
                    )
                if on_long == "split":
                    out[start : start + len(slab)] = self._encode_split(slab, prefix, tokens, batch_tokens, bar)
                    continue
                cut += len(long)
                if long:
                    shortened = self._tokenize([prefix + slab[i] for i in long], truncate=True)
                    for i, ids in zip(long, shortened, strict=True):
                        tokens[i] = ids
                out[start : start + len(slab)] = self._encode_tokens(tokens, batch_tokens, bar)
        if cut:
            warnings.warn(
                f"{cut} of {len(texts)} texts were longer than {self.checkpoint.max_length} tokens and were cut; "
                "pass on_long='split' to encode all of them, or on_long='error' to refuse.",
                stacklevel=4,
            )
        return out

    def _encode_split(
        self, texts: list[str], prefix: str, tokens: list[list[int]], batch_tokens: int, bar: Any
    ) -> Vectors:
        """Encode long texts as the mean of their parts, each behind the prefix."""
        parts: list[str] = []
        owners: list[int] = []
        for i, (text, ids) in enumerate(zip(texts, tokens, strict=True)):
            pieces = [text] if len(ids) <= self.checkpoint.max_length else self._split(text, prefix)
            parts += pieces
            owners += [i] * len(pieces)
        part_tokens = self._tokenize([prefix + part for part in parts], truncate=True)
        vectors = self._encode_tokens(part_tokens, batch_tokens, None)
        weights = np.array([len(ids) for ids in part_tokens], dtype=np.float32)[:, None]
        sums = np.zeros((len(texts), self.checkpoint.dim), dtype=np.float32)
        np.add.at(sums, owners, vectors * weights)
        bar.update(len(texts))
        return _unit_rows(sums)

    def _split(self, text: str, prefix: str) -> list[str]:
        """Cut a text between words into parts that fit behind the prefix; a word too long is halved."""
        with self._turn:
            encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        room = self.checkpoint.max_length - self.lengths([prefix])[0]
        if room < 1:
            raise InputError(f"The prefix {prefix!r} alone fills the {self.checkpoint.max_length} tokens of the model.")
        offsets = encoding["offset_mapping"]
        # A part tokenised on its own may take a few tokens more than it did within the text.
        step = max(1, room - max(1, room // 16))
        starts = [offsets[i][0] for i in range(0, len(offsets), step)]
        return [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]

    def _tokenize(self, texts: Sequence[str], *, truncate: bool = False) -> list[list[int]]:
        limit = {"truncation": True, "max_length": self.checkpoint.max_length} if truncate else {"truncation": False}
        with self._turn:
            ids: list[list[int]] = self.tokenizer(
                list(texts),
                padding=False,
                return_attention_mask=False,
                return_token_type_ids=False,
                verbose=False,
                **limit,
            )["input_ids"]
        return ids

    def _encode_tokens(self, tokens: list[list[int]], batch_tokens: int, bar: Any) -> Vectors:
        """Longest first, so that padding is small and a lack of memory shows at once."""
        import torch

        out = np.empty((len(tokens), self.checkpoint.dim), dtype=np.float32)
        order = sorted(range(len(tokens)), key=lambda i: -len(tokens[i]))
        at = 0
        while at < len(order):
            width = max(1, len(tokens[order[at]]))
            rows = order[at : at + max(1, batch_tokens // width)]
            ids = np.full((len(rows), width), self._pad, dtype=np.int64)
            mask = np.zeros((len(rows), width), dtype=np.int64)
            for row, i in enumerate(rows):
                ids[row, : len(tokens[i])] = tokens[i]
                mask[row, : max(1, len(tokens[i]))] = 1
            with torch.inference_mode():
                hidden = self.model(
                    input_ids=torch.from_numpy(ids).to(self.device),
                    attention_mask=torch.from_numpy(mask).to(self.device),
                ).last_hidden_state
                pooled = pool(hidden, torch.from_numpy(mask).to(self.device), self.checkpoint.pooling)
                unit = torch.nn.functional.normalize(pooled.float(), dim=-1)
            out[rows] = unit.cpu().numpy()
            at += len(rows)
            if bar is not None:
                bar.update(len(rows))
        return out


def pool(hidden: torch.Tensor, mask: torch.Tensor, pooling: checkpoints.Pooling) -> torch.Tensor:
    """One vector a text from its token vectors.

    Args:
        hidden: `[n, tokens, dim]`, padded on the right.
        mask: `[n, tokens]`, 1 where there is a token.
        pooling: `cls` the first token, `last` the last one, `mean` all of them.

    Returns:
        `[n, dim]` float32, not normalised.
    """
    import torch

    if pooling == "cls":
        return hidden[:, 0].float()
    if pooling == "last":
        rows = torch.arange(len(hidden), device=hidden.device)
        return hidden[rows, mask.sum(dim=1) - 1].float()
    weights = mask.unsqueeze(-1)
    return (hidden * weights).sum(dim=1, dtype=torch.float32) / weights.sum(dim=1).clamp(min=1)


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts as a list, each a string that can be encoded.

    Raises:
        InputError: If there is none, one is no string, or one has half a surrogate pair.
    """
    if isinstance(texts, str):
        raise InputError("Expected a list of texts, got one string; put it in a list.")
    checked = list(texts)
    if not checked:
        raise InputError("Expected at least one text, got an empty list.")
    for i, text in enumerate(checked):
        check_text(text, f"Text {i}")
    return checked


def check_text(text: object, name: str) -> str:
    """The text, if it is a string of whole characters.

    Args:
        text: What was given.
        name: What to call it in the error.

    Raises:
        InputError: If it is no string, or has half a surrogate pair.
    """
    if not isinstance(text, str):
        raise InputError(f"{name} is {type(text).__name__}, expected a string.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(
            f"{name} has half a surrogate pair ({text[error.start]!r}) at character {error.start}; "
            "decode its source with errors='replace'."
        ) from None
    return text


def _unit_rows(rows: Vectors) -> Vectors:
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit: Vectors = rows / np.maximum(norms, 1e-12)
    return unit


def _best_device() -> str:
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _choose_dtype(dtype: str, device: torch.device) -> torch.dtype:
    import torch

    if dtype == "float16" and device.type == "cpu":
        raise InputError("dtype='float16' on a CPU is a hundred times slower; use 'auto', 'bfloat16' or 'float32'.")
    if dtype != "auto":
        chosen: torch.dtype = getattr(torch, dtype)
        return chosen
    if device.type == "cuda":
        fast = torch.cuda.is_bf16_supported()
    else:
        fast = device.type == "cpu" and torch.cpu._is_avx512_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


def _read_model(checkpoint: Checkpoint, dtype: torch.dtype) -> tuple[Any, Any]:
    from transformers import AutoModel, AutoTokenizer

    with checkpoints.quiet_transformers():
        try:
            tokenizer = AutoTokenizer.from_pretrained(checkpoint.folder, trust_remote_code=False)
            model = AutoModel.from_pretrained(
                checkpoint.folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
        except (OSError, ValueError, KeyError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise ModelError(f"{str(checkpoint.folder)!r} cannot be loaded as a text encoder: {reason}") from error
    return tokenizer, model
