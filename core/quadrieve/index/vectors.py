"""The vectors of an index in one file, searched exactly.

A scan in 8-bit integers finds more candidates than asked for, and their float32 rows decide. One scan of 100,000
vectors takes about as long as one query of an approximate graph, misses nothing under any filter, and needs no
building.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..embedder import Vectors

Slots = NDArray[np.int64]

_EXTRA = 2  # candidates of the coarse scan for each hit asked for
_LEAST = 128
_TRIED = 8192  # rows on which ways of multiplying are compared
_RUNS = 20  # of each: the first ones may wait for threads
_SMALL = 4096  # below so many rows, float32 is scanned at once


class VectorFile:
    """Unit rows `[capacity, dim]` by slot; empty slots are zero.

    Args:
        path: The file, or None for memory.
        dim: Length of a row.
    """

    def __init__(self, path: Path | None, dim: int) -> None:
        self._path = path
        self.dim = dim
        self._rows = self._map(0)
        self._coarse = np.zeros((0, dim), dtype=np.int8)
        self._scales = np.zeros(0, dtype=np.float32)
        self._quantise(np.arange(len(self._rows)))

    def __len__(self) -> int:
        return len(self._rows)

    def close(self) -> None:
        """Write what is pending."""
        self.flush()

    def flush(self) -> None:
        """Write to disk."""
        if isinstance(self._rows, np.memmap):
            self._rows.flush()

    def put(self, slots: Slots, vectors: Vectors) -> None:
        """Write rows `[n, dim]`; zero rows empty their slots."""
        if len(slots) == 0:
            return
        if slots.max() >= len(self._rows):
            self._rows = self._map(max(int(slots.max()) + 1, len(self._rows) * 3 // 2, 1024))
        self._rows[slots] = vectors
        self._quantise(slots)

    def rows(self, slots: Slots) -> Vectors:
        """The rows of those slots, `[n, dim]`."""
        found: Vectors = np.asarray(self._rows[slots])
        return found

    def nearest(self, query: Vectors, k: int, slots: Slots) -> tuple[Slots, Vectors]:
        """The k of those slots nearest to a unit query `[dim]`, with their cosines, nearest first."""
        if len(slots) > max(_SMALL, _LEAST + k * _EXTRA):
            slots = self._candidates(query, _LEAST + k * _EXTRA, slots)
        cosines = np.vecdot(self.rows(slots), query)
        order = np.argsort(-cosines, kind="stable")[:k]
        return slots[order], np.clip(cosines[order], -1.0, 1.0)

    def _candidates(self, query: Vectors, n: int, slots: Slots) -> Slots:
        part = len(slots) < len(self._rows) // 2
        coarse, scales = (self._coarse[slots], self._scales[slots]) if part else (self._coarse, self._scales)
        scores = _quickest_products(self.dim)(coarse, query) * scales
        if not part:
            scores = scores[slots]
        if n >= len(slots):
            return slots
        return slots[np.argpartition(scores, -n)[-n:]]

    def _quantise(self, slots: Slots) -> None:
        """Rows as integers in [-127, 127], each with a scale of its own."""
        if len(self._coarse) < len(self._rows):
            missing = len(self._rows) - len(self._coarse)
            self._coarse = np.concatenate([self._coarse, np.zeros((missing, self.dim), dtype=np.int8)])
            self._scales = np.concatenate([self._scales, np.zeros(missing, dtype=np.float32)])
        for start in range(0, len(slots), 8192):
            some = slots[start : start + 8192]
            rows = self._rows[some]
            scales = np.abs(rows).max(axis=1) / 127
            self._scales[some] = scales
            self._coarse[some] = np.rint(rows / np.maximum(scales, 1e-12)[:, None])

    def _map(self, capacity: int) -> Any:
        if self._path is None:
            grown = np.zeros((capacity, self.dim), dtype=np.float32)
            grown[: len(getattr(self, "_rows", ()))] = getattr(self, "_rows", 0)
            return grown
        width = self.dim * 4
        with open(self._path, "ab") as file:
            size = os.fstat(file.fileno()).st_size // width
            if capacity > size:
                file.truncate(capacity * width)
                size = capacity
        if size == 0:  # an empty file cannot be mapped
            return np.zeros((0, self.dim), dtype=np.float32)
        return np.memmap(self._path, dtype=np.float32, mode="r+", shape=(size, self.dim))


Products = Callable[[NDArray[np.int8], Vectors], Vectors]


@lru_cache(maxsize=8)
def _quickest_products(dim: int) -> Products:
    """The way to multiply integer rows with a query that is quickest on this processor, found out once.

    With integer dot products (VNNI), whole numbers are three times as fast as float32; without them they are three
    times as slow, and it is quickest to widen the rows to bfloat16 on their way.
    """
    rng = np.random.default_rng(0)
    rows = rng.integers(-127, 128, (_TRIED, dim), dtype=np.int8)
    query = rng.standard_normal(dim, dtype=np.float32)
    ways = [_float_products, _whole_products]
    if dim % 32 == 0:  # else torch reads beyond the row
        ways.append(_widened_products)
    times: dict[Products, float] = {}
    for products in ways:
        try:
            products(rows, query)
            runs = []
            for _ in range(_RUNS):
                start = time.perf_counter()
                products(rows, query)
                runs.append(time.perf_counter() - start)
            times[products] = min(runs)
        except (AttributeError, RuntimeError):  # another torch may lack one of them
            continue
    return min(times, key=times.__getitem__)


def _whole_products(coarse: NDArray[np.int8], query: Vectors) -> Vectors:
    """Dot products `[n]` of integer rows with a query, up to the rows' scales."""
    import torch

    step = max(float(np.abs(query).max()) / 127, 1e-12)
    whole = torch.from_numpy(np.rint(query / step).astype(np.int8))[None]
    products: NDArray[np.int32] = torch._int_mm(whole, torch.from_numpy(coarse).t())[0].numpy()
    return products.astype(np.float32) * np.float32(step)


def _widened_products(coarse: NDArray[np.int8], query: Vectors) -> Vectors:
    import torch

    half, scales = torch.from_numpy(query).bfloat16()[None], torch.ones(len(coarse), dtype=torch.bfloat16)
    products: Vectors = torch._weight_int8pack_mm(half, torch.from_numpy(coarse), scales)[0].float().numpy()
    return products


def _float_products(coarse: NDArray[np.int8], query: Vectors) -> Vectors:
    return np.concatenate([coarse[i : i + _TRIED] @ query for i in range(0, len(coarse), _TRIED)])
