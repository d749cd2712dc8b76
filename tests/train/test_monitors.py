"""Each monitor warns at its threshold, and not before."""

import numpy as np
import pytest

from quadrieve_train.dev import DevSet, ndcg
from quadrieve_train.monitors import (
    MONITORS,
    Figures,
    FlatEmbeddings,
    Forgetting,
    Interference,
    RewardHacking,
    TrainingWarning,
    effective_rank,
)
from quadrieve_train.rows import Collection, Query, Row, read_collection


def figures(**values):
    return Figures(step=1, **values)


@pytest.mark.parametrize(
    ("monitor", "first", "fine", "wrong", "message"),
    [
        (
            FlatEmbeddings(rank_share=0.5),
            {"effective_rank": {"qa": 100}},
            {"effective_rank": {"qa": 50}},
            {"effective_rank": {"qa": 49}},
            "qa: the effective rank fell from 100 to 49",
        ),
        (FlatEmbeddings(cosine=0.7), {}, {"mean_cosine": {"qa": 0.7}}, {"mean_cosine": {"qa": 0.71}}, "cosine of 0.71"),
        (
            Forgetting(drop=0.02),
            {"ndcg": {"qa": 0.50, "tool": 0.3}},
            {"ndcg": {"qa": 0.485, "tool": 0.9}},
            {"ndcg": {"qa": 0.47, "tool": 0.9}},
            "qa: NDCG fell from 0.500 to 0.470",
        ),
        (Forgetting(drift=0.5), {}, {"drift": {"qa": 0.5}}, {"drift": {"qa": 0.51}}, "drifted by 0.51"),
        (
            Interference(ratio=1.2),
            {"loss": {"qa": 1.0, "tool": 1.0}},
            {"loss": {"qa": 1.3, "tool": 1.1}},
            {"loss": {"qa": 1.3, "tool": 0.9}},
            "qa: the loss rose to 1.30 times",
        ),
        (
            Interference(cosine=-0.3),
            {},
            {"gradient_cosine": {"qa/tool": -0.3}},
            {"gradient_cosine": {"qa/tool": -0.4}},
            "qa/tool: gradients have a cosine of -0.40",
        ),
        (
            RewardHacking(rise=0.05),
            {"reward": {"qa": 0.1}, "quality": {"qa": 0.5}},
            {"reward": {"qa": 0.3}, "quality": {"qa": 0.6}},
            {"reward": {"qa": 0.3}, "quality": {"qa": 0.5}},
            "the reward rose by 0.200 while answer quality changed by +0.000",
        ),
    ],
)
def test_a_monitor_warns_at_its_threshold(monitor, first, fine, wrong, message):
    start = figures(**first)
    assert monitor.check(start, start) == []
    assert monitor.check(start, figures(**fine)) == []
    (found,) = monitor.check(start, figures(**wrong))
    assert message in found
    assert issubclass(monitor.warning, TrainingWarning)
    assert MONITORS[monitor.name] is type(monitor)


def test_vectors_that_collapse_lose_their_effective_rank():
    generator = np.random.default_rng(0)
    spread = generator.normal(size=(200, 16))
    collapsed = spread[:, :1] @ spread[:1] + 0.01 * spread
    assert effective_rank(spread) > 14
    assert effective_rank(collapsed) < 3


def test_ndcg_is_one_for_a_perfect_order_and_counts_ties_against_it():
    assert ndcg(np.array([3.0, 2.0, 1.0]), [0, 1], 10) == 1
    assert ndcg(np.array([1.0, 2.0, 3.0]), [0], 10) == pytest.approx(1 / np.log2(4))
    assert ndcg(np.array([1.0, 1.0]), [0], 1) == 0
    assert ndcg(np.array([9.0, 1.0, 2.0]), [1], 10, visible=[1, 2]) == pytest.approx(1 / np.log2(3))
    assert ndcg(np.array([9.0]), [], 10) == 0


def test_a_dev_set_measures_rank_reward_and_quality_of_what_comes_first(collection_folder):
    row = Row("qa", "honey", ("good",), ("bad",), rewards=(1.0, -1.0), qualities=(0.9, 0.1))
    dev = DevSet.from_collection(read_collection(collection_folder), "qa", queries=3, keys=6, rewarded=[row])
    assert (len(dev.queries), len(dev.keys)) == (3, 6)

    def encode(texts, side):  # a bag of letters is encoder enough
        rows = np.array([[text.lower().count(chr(97 + i)) for i in range(26)] for text in texts], dtype=np.float32)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    found = dev.measure(encode)
    assert 0 <= found.ndcg <= 1
    assert (found.reward, found.quality) in [(1.0, 0.9), (-1.0, 0.1)]
    perfect = dev.measure(lambda texts, side: np.eye(64, dtype=np.float32)[[_place(dev, t, side) for t in texts]])
    assert perfect.ndcg == 1


def test_a_dev_set_of_memories_takes_candidates_of_its_own_conversations_and_shows_each_query_what_came_before():
    places = tuple((name, turn) for name in ("ada", "bob", "eve") for turn in range(10))
    ids = tuple(f"{name}{turn}" for name, turn in places)
    queries = tuple(
        Query(f"q-{name}", "?", (), (f"{name}3",), "dev", (), name, turn) for name, turn in (("ada", 6), ("bob", 9))
    )
    talk = Collection("talk", ids, ids, ("",) * 30, places, queries)
    whole, part = DevSet.from_collection(talk, "chat"), DevSet.from_collection(talk, "chat", keys=8)
    assert whole.keys == ids[:20]
    assert len(part.keys) == 8
    for dev, seen in ((whole, [6, 9]), (part, None)):
        for query, visible, positives in zip(queries, dev.visible, dev.positives, strict=True):
            shown = [dev.keys[i] for i in visible]
            assert {key[:3] for key in shown} == {query.conversation}
            assert all(int(key[3:]) < query.turn for key in shown)
            assert [dev.keys[i] for i in positives] == list(query.positives)
            assert set(positives) <= set(visible)
        assert seen is None or [len(visible) for visible in dev.visible] == seen


def _place(dev, text, side):
    """The same place for a query and its positive."""
    if text in dev.queries:
        return dev.positives[dev.queries.index(text)][0]
    return dev.keys.index(text) if text in dev.keys else 63
