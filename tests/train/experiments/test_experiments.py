"""Arms differ in one thing, runs are made once, verdicts follow intervals, and nothing measured was trained on."""

import json
from dataclasses import replace

import pytest

from quadrieve_train.errors import LeakError
from quadrieve_train.experiments.arms import EXPERIMENTS, TASKS, Contrast, base_recipe
from quadrieve_train.experiments.runner import run
from quadrieve_train.experiments.samples import Size
from quadrieve_train.experiments.verdict import judge, say, to_markdown, write_picture

SOURCES = dict.fromkeys(TASKS, "farm")
SMALL = Size(train_queries=8, labelled=2, test_queries=4, keys=8, seeds=(1,), split="dev")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_contrast_is_between_arms_that_differ(name):
    chosen = EXPERIMENTS[name](base_recipe(model="minilm", lm="smollm2", steps=4, batch_size=4))
    for claim in chosen.contrasts:
        assert chosen.arms[claim.better] != chosen.arms[claim.worse]
        assert set(claim.on) <= set(chosen.arms[claim.worse].recipe.tasks)


def runs_of(*values):
    return {
        str(seed): {"figures": {"qa": list(some)}, "losses": {"qa": [2.0, 1.0]}, "seconds": 1.0}
        for seed, some in enumerate(values)
    }


def test_a_verdict_claims_no_more_than_its_interval():
    arms = {
        "a": runs_of([0.9] * 9, [0.8] * 9),
        "b": runs_of([0.5] * 9),
        "c": runs_of([0.2, 1.0, 1.0] * 3),
        "d": runs_of([1.0] * 9, [0.85] * 9),
    }
    result = {"arms": arms, "untrained": {"start": {"qa": [0.1] * 9}}}

    def verdict(better, worse, *on):
        claim = Contrast(better, worse, on)
        return say(claim, *judge(result, claim))

    assert judge(result, Contrast("a", "b"))[0].mean == pytest.approx(0.35)
    assert verdict("a", "b").endswith("`a` is better here.")
    assert verdict("b", "a").endswith("`a` is better here.")
    assert verdict("b", "start").endswith("`b` is better here.")
    assert verdict("a", "c", "qa").endswith(" Too small to tell.")
    assert verdict("d", "a").endswith("The seeds disagree, so too small to tell.")


def test_tasks_count_alike_however_many_queries_they_have():
    runs = {name: {"1": {"figures": {"qa": [x] * 9, "tool": [y]}}} for name, x, y in (("a", 0.0, 1.0), ("b", 1.0, 0.0))}
    assert judge({"arms": runs, "untrained": {}}, Contrast("a", "b"))[0].mean == pytest.approx(0.0)


@pytest.mark.models
def test_what_an_experiment_ran_is_not_run_again(collection_folder, tiny_encoder, tiny_lm, tmp_path):
    base = base_recipe(model=str(tiny_encoder), lm=str(tiny_lm), steps=2, batch_size=2)
    base = replace(base, tasks={task: base.tasks[task] for task in ("qa", "tool")})
    chosen = EXPERIMENTS["batching"](base)
    results = [run(chosen, collection_folder.parent, SOURCES, tmp_path / "shared", SMALL) for _ in range(2)]
    assert results[0] == results[1]  # seconds too, so nothing was trained twice
    figures = [figure for runs in results[0]["arms"].values() for figure in runs["1"]["figures"]["qa"]]
    assert len(figures) == 3 * 4
    assert 0 < min(figures) < max(figures) <= 1
    assert sum(map(len, results[0]["arms"]["homogeneous"]["1"]["losses"].values())) == 2
    report = to_markdown("batching", chosen, results[0], "quadrieve experiment batching")
    assert "| BM25 |" in report
    assert report.count("`homogeneous` minus") == 2
    write_picture(chosen, results[0], tmp_path / "picture.png")


def test_measuring_what_was_trained_on_is_refused(collection_folder, tiny_encoder, tmp_path):
    queries = collection_folder / "queries.jsonl"
    records = [json.loads(line) for line in queries.read_text().splitlines()]
    leaked = {**records[0], "id": "leak", "split": "dev"}
    queries.write_text("".join(json.dumps(record) + "\n" for record in [leaked, *records]))
    base = base_recipe(model=str(tiny_encoder), lm="none", steps=2, batch_size=2)
    chosen = EXPERIMENTS["batching"](replace(base, tasks={"qa": base.tasks["qa"]}))
    bare = replace(SMALL, labelled=0, test_queries=5)
    with pytest.raises(LeakError, match="'leak' of farm"):
        run(chosen, collection_folder.parent, SOURCES, tmp_path / "shared", bare)
