"""One copy of the weights in a process, however many embeddings are made of the same checkpoint."""

from __future__ import annotations

import threading
from weakref import WeakValueDictionary

from quadrieve import Embedder, EmbedderLike
from quadrieve.index.records import canonical_json

_live: WeakValueDictionary[str, Embedder] = WeakValueDictionary()
_lock = threading.Lock()


def shared(embedder: EmbedderLike) -> EmbedderLike:
    """The embedder that this process has of these weights and options already, else this one.

    Four roles named one by one, and what comes out of a pickle, then use the same weights.

    Example:
        >>> from quadrieve import Embedder
        >>> shared(Embedder.load("minilm")) is shared(Embedder.load("minilm"))
        True
    """
    if not isinstance(embedder, Embedder):
        return embedder
    state = embedder.__getstate__()
    checkpoint = state.pop("checkpoint")
    key = canonical_json(
        [
            str(checkpoint.folder),
            checkpoint.weights_hash(),
            checkpoint.pooling,
            checkpoint.max_length,
            dict(checkpoint.prompts),
            state,
        ]
    )
    with _lock:
        return _live.setdefault(key, embedder)
