"""Arms differ in one thing, runs are made once, verdicts follow intervals, and nothing measured was trained on."""

import json
from dataclasses import replace

import pytest

from quadrieve.errors import InputError
from quadrieve_train.errors import LeakError
from quadrieve_train.experiments.arms import (
    EXPERIMENTS,
    TASKS,
    Arm,
    Contrast,
    Experiment,
    Settings,
    base_recipe,
    read_by,
    start,
)
from quadrieve_train.experiments.runner import run
from quadrieve_train.experiments.samples import Size, many_sources, outside_sources, pairs, read_source
from quadrieve_train.experiments.verdict import judge, say, to_markdown, write_picture
from quadrieve_train.recipes import Recipe

SOURCES = dict.fromkeys(TASKS, "farm")
SMALL = Size(train_queries=8, labelled=2, test_queries=4, keys=8, seeds=(1,), split="dev")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_contrast_is_between_arms_that_differ(name):
    base = base_recipe(model="minilm", lm="smollm2", steps=8, batch_size=4)
    many = {f"experiment_{kind}": (kind, f"set/{kind}") for kind in ("icl", "tool")}
    given = Settings(base, ("minilm", "larger"), ("smollm2", "other"), many, {"sums": "set/sums"})
    chosen = EXPERIMENTS[name](given)
    untrained = {start(model) for model in given.models}
    figures = {*chosen.sources, *TASKS, *chosen.outside, *(read_by(t, lm) for t in TASKS for lm in chosen.readers)}
    claims = [*chosen.contrasts, *(claim for series in chosen.series.values() for claim in series)]
    assert claims
    for claim in claims:
        assert claim.worse in untrained or chosen.arms[claim.better] != chosen.arms[claim.worse]
        assert set(claim.on) <= figures
    earlier = []
    for arm in chosen.arms:
        assert chosen.arms[arm].after in ("", *earlier)
        earlier.append(arm)


def test_what_cannot_be_compared_is_said():
    base = base_recipe(model="minilm", lm="smollm2", steps=8, batch_size=4)
    for name, reason in (
        ("many-tasks", "needs collections with several tasks"),
        ("transfer", "needs a collection of examples"),
        ("llm-transfer", "repeat --lm"),
    ):
        with pytest.raises(InputError, match=reason):
            EXPERIMENTS[name](Settings(base, ("minilm",), ("smollm2",)))


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
    result = {"tasks": ["qa"], "arms": arms, "untrained": {"start": {"qa": [0.1] * 9}}}

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
    result = {"tasks": ["qa", "tool"], "arms": runs, "untrained": {}}
    assert judge(result, Contrast("a", "b"))[0].mean == pytest.approx(0.0)


@pytest.mark.models
def test_what_an_experiment_ran_is_not_run_again(collection_folder, tiny_encoder, tiny_lm, tmp_path):
    base = base_recipe(model=str(tiny_encoder), lm=str(tiny_lm), steps=2, batch_size=2)
    base = replace(base, tasks={task: base.tasks[task] for task in ("qa", "tool")})
    chosen = EXPERIMENTS["batching"](Settings(base))
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


@pytest.mark.models
def test_arms_go_on_from_others_are_read_and_measured_outside(collection_folder, tiny_encoder, tiny_lm, tmp_path):
    base = base_recipe(model=str(tiny_encoder), lm=str(tiny_lm), steps=1, batch_size=2)
    only = {task: replace(base, tasks={task: base.tasks[task]}) for task in ("qa", "tool")}
    chosen = Experiment(
        "What is left?",
        {"qa": Arm(only["qa"]), "qa then tool": Arm(only["tool"], after="qa")},
        (Contrast("qa", start(base.model), (read_by("qa", base.lm),)),),
        {"order": (Contrast("qa", "qa then tool", ("qa",)),)},
        outside={"farm outputs": "farm"},
        readers=(base.lm,),
    )
    result = run(chosen, collection_folder.parent, SOURCES, tmp_path / "shared", SMALL)
    arms = result["arms"]
    first, second = (tmp_path / "shared/runs" / arms[name]["1"]["run"] / "model" for name in chosen.arms)
    assert Recipe.load(second / "recipe.yaml").model == str(first)
    read = [read_by(task, base.lm) for task in ("qa", "tool")]
    assert set(arms["qa"]["1"]["figures"]) == {"qa", "tool", "farm outputs", *read}
    assert all(value < 0 for name in read for value in result["untrained"]["BM25"][name])
    report = to_markdown("order", chosen, result, "quadrieve experiment order")
    assert "- order: " in report
    assert "| farm outputs |" in report


def test_a_task_of_a_collection_is_a_source_of_its_own(collection_folder):
    data = collection_folder.parent
    for file, kinds in (("corpus", ("sums", "moods")), ("queries", ("moods", "sums"))):
        path = collection_folder / f"{file}.jsonl"
        records = [json.loads(line) for line in path.read_text().splitlines()]
        for number, record in enumerate(records):
            record["meta"] = {"task": kinds[number % 2]}
            if record["meta"]["task"] == "moods":
                record["answers"] = ["good"]
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    (collection_folder / "info.json").write_text('{"role": "example"}')
    assert many_sources(data, "farm") == {"moods": ("icl", "farm/moods"), "sums": ("icl", "farm/sums")}
    sums = read_source(data, "farm/sums")
    assert len(sums.ids) == 10
    assert {query.meta["task"] for query in sums.queries} == {"sums"}
    assert outside_sources(data, "farm", "train") == {"sums outputs": "farm/sums"}  # moods have one output for all
    found = pairs(data, "farm/sums", "train")
    assert [found.collection.texts[int(query.positives[0])] for query in found.queries] == [
        query.answers[0] for query in found.queries
    ]


def test_measuring_what_was_trained_on_is_refused(collection_folder, tiny_encoder, tmp_path):
    queries = collection_folder / "queries.jsonl"
    records = [json.loads(line) for line in queries.read_text().splitlines()]
    leaked = {**records[0], "id": "leak", "split": "dev"}
    queries.write_text("".join(json.dumps(record) + "\n" for record in [leaked, *records]))
    base = base_recipe(model=str(tiny_encoder), lm="none", steps=2, batch_size=2)
    chosen = EXPERIMENTS["batching"](Settings(replace(base, tasks={"qa": base.tasks["qa"]})))
    bare = replace(SMALL, labelled=0, test_queries=5)
    with pytest.raises(LeakError, match="'leak' of farm"):
        run(chosen, collection_folder.parent, SOURCES, tmp_path / "shared", bare)
