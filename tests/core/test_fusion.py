"""How the ranking by meaning and the one by words become one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrieve import Fusion
from quadrieve.index.fusion import Scores

FUSION = Fusion()
WHOLE = 10.0
bm25s = st.lists(st.floats(0, 3 * WHOLE), min_size=2, max_size=30).map(np.array)


def fuse(cosines: Scores, bm25: Scores, named: Scores | None = None) -> Scores:
    named = np.zeros(len(bm25)) if named is None else named
    return FUSION.scores(cosines, bm25, named, whole=WHOLE, cut=False)


@given(bm25s)
def test_no_word_and_no_name_leave_the_cosines(bm25: Scores) -> None:
    cosines = np.linspace(0.8, 0.2, len(bm25))
    assert fuse(cosines, np.zeros(len(bm25))).tolist() == cosines.tolist()


@given(bm25s)
def test_among_equal_meanings_words_decide(bm25: Scores) -> None:
    fused = fuse(np.full(len(bm25), 0.5), bm25)
    order = np.argsort(np.minimum(bm25, FUSION.most * WHOLE), kind="stable")
    assert np.all(np.diff(fused[order]) >= -1e-12)


@given(st.floats(1, 100))
def test_the_same_word_again_and_again_adds_no_more(times: float) -> None:
    cosines = np.array([0.5, 0.5, 0.4])
    once, often = fuse(cosines, np.array([7.0, 8.0, 1.0])), fuse(cosines, np.array([7.0, 8.0 * times, 1.0]))
    assert often == pytest.approx(once)


@given(st.floats(0.03, 0.9), st.floats(0.03, 0.9))
def test_words_count_the_more_the_less_meaning_tells_candidates_apart(one: float, other: float) -> None:
    def told(spread: float) -> float:
        cosines = np.linspace(0, -spread, 10)
        return float(fuse(cosines, np.array([0.0] * 8 + [4.0, 4.0]))[-1] - cosines[-1])

    assert told(one) * min(one, 0.2) == pytest.approx(told(other) * min(other, 0.2))


@given(st.floats(0, 1), st.floats(0, 1))
def test_a_name_counts_the_more_the_more_of_the_query_it_is(small: float, large: float) -> None:
    small, large = sorted((small, large))
    fused = fuse(np.full(2, 0.5), np.zeros(2), np.array([small, large]))
    assert fused[0] <= fused[1]


def test_an_exact_name_beats_any_meaning_and_one_in_passing_does_not() -> None:
    cosines = np.array([1.0, -1.0])
    assert fuse(cosines, np.zeros(2), np.array([0.0, 1.0])).argmax() == 1
    assert fuse(np.array([0.6, 0.5]), np.zeros(2), np.array([0.0, 0.2])).argmax() == 0


@given(st.permutations(range(40)), st.floats(0, 1))
def test_words_count_less_the_more_they_find_what_meaning_has_found(order: list[int], agreed: float) -> None:
    cosines, bm25 = np.linspace(0.9, 0.1, 40), np.linspace(8.0, 1.0, 40)[order]
    words = [
        Fusion(agreed=how, lead=0).scores(cosines, bm25, np.zeros(40), whole=WHOLE, cut=False) - cosines
        for how in (0, agreed, 1)
    ]
    common = sum(place < 10 for place in order[:10])
    loses = max(0.0, (common / 10 - 10 / 40) / (1 - 10 / 40))
    assert words[1] == pytest.approx(words[0] * (1 - agreed * loses))
    assert words[2] == pytest.approx(words[0] * (1 - loses))


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_candidates_agree_as_well_as_many(count: int) -> None:
    cosines, bm25 = np.linspace(0.9, 0.5, count), np.linspace(8.0, 4.0, count)
    fused = Fusion(agreed=1).scores(cosines, bm25, np.zeros(count), whole=WHOLE, cut=False)
    assert np.all(np.isfinite(fused))
    assert fused.argmax() == 0
