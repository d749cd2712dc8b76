"""The exact scan finds what a plain product finds, whichever way the processor multiplies integers quickest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve.index import vectors
from quadrieve.index.vectors import VectorFile


def _unit_rows(n: int, dim: int, seed: int) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize("products", [vectors._whole_products, vectors._widened_products, vectors._float_products])
@pytest.mark.parametrize("n", [1, 33, 9_000])
def test_every_way_to_multiply_gives_the_plain_product(products: vectors.Products, n: int) -> None:
    rows = np.random.default_rng(n).integers(-127, 128, (n, 384), dtype=np.int8)
    query = _unit_rows(1, 384, n)[0]
    plain = rows.astype(np.float32) @ query
    assert np.abs(products(rows, query) - plain).max() <= 0.01 * np.linalg.norm(rows, axis=1).max()


@settings(deadline=None, max_examples=12)
@given(
    dim=st.sampled_from([3, 17, 64, 100, 384]), share=st.sampled_from([0.01, 0.3, 0.7, 1.0]), seed=st.integers(0, 99)
)
def test_the_nearest_are_those_of_brute_force_in_any_part_and_dimension(dim: int, share: float, seed: int) -> None:
    rows, query = _unit_rows(9_000, dim, seed), _unit_rows(1, dim, seed + 1)[0]
    file = VectorFile(None, dim)
    file.put(np.arange(len(rows)), rows)
    slots = np.flatnonzero(np.random.default_rng(seed).random(len(rows)) < share)
    found, cosines = file.nearest(query, 10, slots)
    tenth = np.sort(rows[slots] @ query)[-10]
    assert (rows[found] @ query >= tenth - 1e-5).mean() >= 0.99
    np.testing.assert_allclose(cosines, rows[found] @ query, atol=1e-5)
    assert set(found) <= set(slots)
