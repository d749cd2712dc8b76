"""What an index needs of an embedder, made of any LangChain `Embeddings`, or of none."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from langchain_core.embeddings import Embeddings
from langgraph.store.base import IndexConfig, ensure_embeddings

from quadrieve import EmbedderLike, InputError, Role, ViewLike
from quadrieve.embedder import Side, Vectors

from .embeddings import QuadrieveEmbeddings


def read_embeddings(
    embedder: EmbedderLike | None, index: IndexConfig | None, task: Role | str
) -> tuple[Embeddings | None, ViewLike]:
    """The embedder of a store and the view of it that its index needs; none where nothing is searched by meaning.

    Raises:
        InputError: If two embedders are given, or `dims` is missing or not the embedder's.
    """
    given = (index or {}).get("embed")
    if embedder is not None and given is not None:
        raise InputError("Both embedder=… and index['embed'] are given; a store has one embedder, so leave one out.")
    dims = (index or {}).get("dims")
    if embedder is None and given is None:
        if index is not None:
            raise InputError("index has no 'embed'; add it, or pass embedder=….")
        return None, NoView()
    embeddings = ensure_embeddings(given) if embedder is None else QuadrieveEmbeddings(embedder, task)
    if isinstance(embeddings, QuadrieveEmbeddings):
        view = embeddings.view
    elif dims is None:
        raise InputError("index has no 'dims'; add the dimension of its embeddings.")
    else:
        view = EmbeddingsView(embeddings, dims)
    if dims is not None and dims != view.dim:
        raise InputError(f"index['dims'] is {dims}, but the embedder's vectors have {view.dim}; leave it out.")
    return embeddings, view


class EmbeddingsView:
    """A view over somebody else's `Embeddings`: `embed_query` is its query side, `embed_documents` its key side.

    Its fingerprint is only as good as the names that an `Embeddings` has: class, model and dimension.
    """

    def __init__(self, embeddings: Embeddings, dim: int) -> None:
        self.embeddings = embeddings
        self.dim = dim
        model = getattr(embeddings, "model", None) or getattr(embeddings, "model_name", None)
        self.name = f"{type(embeddings).__module__}.{type(embeddings).__qualname__}:{model}"

    @property
    def fingerprint(self) -> str:
        """Hash of class, model name and dimension."""
        return hashlib.sha256(f"{self.name}:{self.dim}".encode()).hexdigest()[:32]

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`."""
        return unit_rows([self.embeddings.embed_query(text) for text in texts], self.dim)

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Unit rows, float32 `[n, dim]`."""
        return unit_rows(self.embeddings.embed_documents(list(texts)), self.dim)

    def explain(self, text: str, side: Side = "query") -> str:  # noqa: ARG002  # the protocol's names
        """The text: what is done to it in there is not ours to see."""
        return text


class NoView:
    """Stands where nothing is searched by meaning; its vectors mean nothing.

    Example:
        >>> NoView().embed_keys(["a", "b"]).shape
        (2, 8)
    """

    dim = 8
    fingerprint = "no embedder"

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Rows that mean nothing."""
        return self.embed_keys(texts)

    def embed_keys(self, texts: Sequence[str]) -> Vectors:
        """Rows that mean nothing."""
        return np.stack([placeholder(text, self.dim) for text in texts])

    def explain(self, text: str, side: Side = "query") -> str:  # noqa: ARG002  # the protocol's names
        """Nothing is encoded."""
        return ""


def unit_rows(rows: Sequence[Sequence[float]], dim: int) -> Vectors:
    """Vectors as float32 `[n, dim]` of unit length.

    Raises:
        InputError: If they have another dimension.
    """
    vectors: Vectors = np.asarray(rows, dtype=np.float32)
    if vectors.ndim != 2 or vectors.shape[1] != dim:
        raise InputError(f"The embeddings have shape {vectors.shape}, expected (n, {dim}); check dims.")
    unit: Vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    return unit


def placeholder(seed: str, dim: int) -> Vectors:
    """A unit vector `[dim]` that means nothing: the same for the same seed, and unlike that of any other.

    Equal vectors by the thousand would tie a nearest-neighbour graph into a knot.
    """
    digest = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8], "big")
    vector = np.random.default_rng(digest).standard_normal(dim).astype(np.float32)
    unit: Vectors = vector / np.linalg.norm(vector)
    return unit
