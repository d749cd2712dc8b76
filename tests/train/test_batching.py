"""Blocks of rows: which task, which rows, on which process, and after a stop."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve.errors import InputError
from quadrieve_train import SelfPacedSchedule, TaskBlockSampler

sizes = st.dictionaries(st.sampled_from(["qa", "chat", "icl", "tool"]), st.integers(1, 40), min_size=1)
shapes = st.fixed_dictionaries(
    {"batch_size": st.integers(1, 5), "world_size": st.integers(1, 4), "accumulation": st.integers(1, 3)}
)


def blocks(sizes, steps, *, batch_size, world_size, accumulation, **options):
    """By step, the rows of all processes and micro-batches."""
    ranks = [
        list(
            TaskBlockSampler(
                sizes, batch_size, steps, rank=rank, world_size=world_size, accumulation=accumulation, **options
            )
        )
        for rank in range(world_size)
    ]
    return [
        [draw for micro in range(accumulation) for rank in ranks for draw in rank[step * accumulation + micro]]
        for step in range(steps)
    ]


@settings(max_examples=50, deadline=None)
@given(sizes, shapes)
def test_a_step_is_of_one_task_over_all_processes_and_micro_batches(sizes, shape):
    for block in blocks(sizes, 12, **shape):
        assert len({draw.task for draw in block}) == 1
        assert len(block) == shape["batch_size"] * shape["world_size"] * shape["accumulation"]


@settings(max_examples=50, deadline=None)
@given(sizes, shapes, st.sampled_from(["homogeneous", "heterogeneous", "mixed"]))
def test_no_row_is_seen_again_before_all_rows_of_its_task_were_seen(sizes, shape, batching):
    seen = Counter((draw.task, draw.row) for block in blocks(sizes, 12, batching=batching, **shape) for draw in block)
    for task, size in sizes.items():
        counts = [seen[task, row] for row in range(size)]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=50, deadline=None)
@given(sizes, shapes, st.integers(0, 12), st.sampled_from(["homogeneous", "heterogeneous", "mixed"]))
def test_a_sampler_that_starts_later_sees_what_the_whole_run_saw(sizes, shape, start, batching):
    size = shape.pop("batch_size")
    whole = TaskBlockSampler(sizes, size, 12, batching=batching, **shape)
    resumed = TaskBlockSampler(sizes, size, 12, batching=batching, start=start, **shape)
    assert list(resumed) == list(islice(whole, start * shape["accumulation"], None))
    assert len(list(resumed)) == len(resumed)


def test_tasks_keep_their_share_of_the_steps():
    sampler = TaskBlockSampler({"qa": 9, "tool": 9}, 2, 100, weights={"qa": 3, "tool": 1})
    assert Counter(batch[0].task for batch in sampler) == {"qa": 75, "tool": 25}


def test_every_heterogeneous_batch_holds_each_tasks_share_on_every_process():
    shape = {"world_size": 2, "batching": "heterogeneous", "weights": {"qa": 1, "icl": 1, "tool": 2}}
    for rank in range(2):
        for batch in TaskBlockSampler({"qa": 50, "icl": 50, "tool": 50}, 8, 10, rank=rank, **shape):
            assert Counter(draw.task for draw in batch) == {"qa": 2, "icl": 2, "tool": 4}


def test_mixed_batches_are_drawn_by_weight():
    drawn = Counter(
        draw.task
        for batch in TaskBlockSampler({"qa": 9, "tool": 9}, 10, 200, weights={"qa": 3, "tool": 1}, batching="mixed")
        for draw in batch
    )
    assert drawn["qa"] / drawn.total() == pytest.approx(0.75, abs=0.03)


def test_each_task_may_have_its_own_batch_size():
    sampler = TaskBlockSampler({"qa": 9, "tool": 9}, {"qa": 2, "tool": 5}, 10, weights={"qa": 1, "tool": 1})
    assert {(batch[0].task, len(batch)) for batch in sampler} == {("qa", 2), ("tool", 5)}


def test_a_source_batch_is_of_one_source_and_small_sources_get_more_than_their_rows():
    sources = {"tool": ["large"] * 16 + ["small"] * 4}
    sampler = TaskBlockSampler(
        {"qa": 9, "tool": 20}, 2, 90, weights={"qa": 1, "tool": 2}, batching="source", sources=sources
    )
    batches = list(sampler)
    assert Counter(batch[0].task for batch in batches) == {"qa": 30, "tool": 60}
    named = [{sources["tool"][draw.row] for draw in batch} for batch in batches if batch[0].task == "tool"]
    assert Counter(map(frozenset, named)) == {frozenset({"large"}): 40, frozenset({"small"}): 20}
    assert {draw.row for batch in batches for draw in batch if draw.task == "tool"} == set(range(20))


def test_shares_say_how_much_of_a_tasks_steps_each_source_gets():
    sources = {"tool": ["large"] * 16 + ["small"] * 4}
    shares = {"tool": {"large": 1.0, "small": 3.0}}
    sampler = TaskBlockSampler({"tool": 20}, 2, 40, batching="source", sources=sources, shares=shares)
    assert Counter(sources["tool"][batch[0].row] for batch in sampler) == {"large": 10, "small": 30}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": {"qa": 0}}, "needs rows"),
        ({"weights": {"tool": 1.0}}, "name the same"),
        ({"batching": "other"}, "Unknown batching"),
        ({"batch_size": {"qa": 2}, "batching": "mixed"}, "homogeneous"),
        ({"rank": 2, "world_size": 2}, "No process 2 of 2"),
        ({"batching": "source", "sources": {"qa": ["a", "b"] * 2}, "shares": {"qa": {"a": 1.0}}}, "share above 0"),
    ],
)
def test_a_sampler_refuses_what_does_not_fit(options, message):
    with pytest.raises(InputError, match=message):
        TaskBlockSampler(**{"sizes": {"qa": 4}, "batch_size": 2, "steps": 3, **options})


@pytest.mark.parametrize(("direction", "expected"), [("as_text", 1.5), ("as_printed", 1 / 1.5)])
def test_a_lagging_task_speeds_up_as_the_text_says_or_slows_down_as_printed(direction, expected):
    pace = SelfPacedSchedule(2, smoothing=0.0, direction=direction)
    for loss in (4.0, 2.0, 3.0):
        pace.update({"qa": loss})
    assert pace.factor("qa") == pytest.approx(expected)


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=30), st.floats(0.1, 3))
def test_factors_stay_in_their_bounds_and_the_state_carries_on(losses, alpha):
    pace, copy = (SelfPacedSchedule(3, alpha=alpha) for _ in range(2))
    for loss in losses:
        copy.load_state(pace.state())
        pace.update({"qa": loss})
        copy.update({"qa": loss})
        assert copy.factor("qa") == pace.factor("qa")
        assert 0.5 * alpha <= pace.factor("qa") <= 2 * alpha


def test_pacing_refuses_a_loss_that_is_not_finite():
    with pytest.raises(InputError, match="'qa' is nan"):
        SelfPacedSchedule().update({"qa": float("nan")})
