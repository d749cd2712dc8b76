"""Metrics equal independent ones, nobody sees the future, and nothing measured was trained on."""

import itertools
import json
import math
import random
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve import RoleView
from quadrieve.errors import InputError
from quadrieve_train.errors import LeakError
from quadrieve_train.evaluation import systems
from quadrieve_train.evaluation.metrics import retrieval_metrics
from quadrieve_train.evaluation.reading import contains, exact_match, rouge_l, token_f1
from quadrieve_train.evaluation.report import compare, to_markdown, write_picture
from quadrieve_train.evaluation.run import evaluate, find_sets
from quadrieve_train.evaluation.sets import (
    EvalSet,
    check_no_leak,
    read_paper_rows,
    read_set,
    shrink,
    training_queries,
)
from quadrieve_train.evaluation.statistics import paired_bootstrap
from quadrieve_train.recipes import Recipe
from quadrieve_train.rows import Collection, Query, Row, write_rows


def by_hand(ranking, gold):
    """The metrics from their definitions."""

    def ndcg(k):
        gain = sum(1 / math.log2(place + 2) for place, doc in enumerate(ranking[:k]) if doc in gold)
        return gain / sum(1 / math.log2(place + 2) for place in range(min(k, len(gold))))

    first = next((place for place, doc in enumerate(ranking, start=1) if doc in gold), None)
    return {
        "ndcg@3": ndcg(3),
        "ndcg@5": ndcg(5),
        "ndcg@10": ndcg(10),
        "mrr": 1 / first if first else 0.0,
        "recall@5": len(set(ranking[:5]) & gold) / len(gold),
        "recall@10": len(set(ranking[:10]) & gold) / len(gold),
        "all@5": float(gold <= set(ranking[:5])),
        "all@10": float(gold <= set(ranking[:10])),
    }


def test_metrics_equal_their_definitions_on_fifty_random_cases():
    draw = random.Random(1)
    docs = [f"d{i}" for i in range(30)]
    rankings = [draw.sample(docs, draw.randrange(0, 30)) for _ in range(50)]
    gold = [set(draw.sample(docs, draw.randrange(1, 8))) for _ in range(50)]
    found = retrieval_metrics(rankings, [sorted(some) for some in gold])
    for i in range(50):
        expected = by_hand(rankings[i], gold[i])
        assert {name: values[i] for name, values in found.items()} == pytest.approx(expected)


def words_of(text):
    """What SQuAD's script keeps: without punctuation, articles and case."""
    return re.sub(r"\b(a|an|the)\b", " ", re.sub(r"[^\w\s]", "", text.lower())).split()


def longest_common(a, b):
    """The longest common subsequence, tried out."""
    return next(
        size
        for size in range(min(len(a), len(b)), -1, -1)
        if set(itertools.combinations(a, size)) & set(itertools.combinations(b, size))
    )


def test_judges_of_answers_equal_their_definitions_on_fifty_random_cases():
    draw = random.Random(2)
    vocabulary = ["the", "Tower", "tower.", "of", "a", "Paris!", "paris", "in", "1889"]
    for _ in range(50):
        said, *desired = (" ".join(draw.choices(vocabulary, k=draw.randrange(1, 8))) for _ in range(3))
        told, wanted = words_of(said), [words_of(text) for text in desired]
        assert exact_match(said, desired) == float(told in wanted)
        shared = [sum(min(told.count(word), some.count(word)) for word in set(told)) for some in wanted]
        assert token_f1(said, desired) == pytest.approx(
            max(
                2 / (len(told) / n + len(some) / n) if n else float(told == some)
                for n, some in zip(shared, wanted, strict=True)
            )
        )
        assert contains(said, desired) == float(any(re.search(re.escape(text), said, re.I) for text in desired))
        plain = [re.sub(r"\W+", " ", text.lower()).split() for text in (said, *desired)]
        assert rouge_l(said, desired) == pytest.approx(
            max(2 * longest_common(plain[0], some) / (len(plain[0]) + len(some)) for some in plain[1:])
        )


def test_answers_are_judged_as_squad_and_rouge_do():
    assert exact_match("the Eiffel Tower!", ["Paris", "Eiffel tower"]) == 1
    assert exact_match("in Paris", ["Paris"]) == 0
    assert token_f1("red blue", ["red green"]) == 0.5
    assert rouge_l("police killed the gunman", ["police kill the gunman"]) == 0.75


@st.composite
def conversations(draw):
    turns = draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 9)), min_size=1, max_size=12, unique=True))
    queries = tuple(
        Query(f"q{i}", "tea milk", (), (), "test", (), who, turn)
        for i, (who, turn) in enumerate(
            draw(st.lists(st.tuples(st.sampled_from("ab"), st.integers(0, 10)), min_size=1))
        )
    )
    ids = tuple(f"{who}{turn}" for who, turn in turns)
    return EvalSet(
        "talk",
        "chat",
        Collection("talk", ids, ("tea and milk",) * len(ids), ("",) * len(ids), tuple(turns), queries),
        queries,
    )


@settings(max_examples=40, deadline=None)
@given(conversations())
def test_nobody_is_shown_the_future_or_another_conversation(evaluated):
    place = dict(zip(evaluated.collection.ids, evaluated.collection.places, strict=True))
    for rank in (systems.recency, systems.at_random, systems.dense(Constant())):
        for query, ranking in zip(evaluated.queries, rank(evaluated), strict=True):
            earlier = {i for i, (who, turn) in place.items() if who == query.conversation and turn < query.turn}
            assert set(ranking) == earlier
    for query, ranking in zip(evaluated.queries, systems.bm25(evaluated), strict=True):
        assert set(ranking) <= {
            i for i, (who, turn) in place.items() if who == query.conversation and turn < query.turn
        }


def test_the_hybrid_shows_neither_the_future_nor_another_conversation():
    places = (("a", 0), ("a", 1), ("b", 0), ("a", 5))
    asked = (Query("q", "tea milk", (), (), "test", (), "a", 5), Query("r", "tea milk", (), (), "test", (), "b", 9))
    talk = Collection("talk", ("a0", "a1", "b0", "a5"), ("tea and milk",) * 4, ("",) * 4, places, asked)
    first, second = systems.hybrid(Constant())(EvalSet("talk", "chat", talk, asked))
    assert (set(first), set(second)) == ({"a0", "a1"}, {"b0"})


@settings(max_examples=40, deadline=None)
@given(conversations())
def test_all_conversations_are_encoded_in_one_call_and_each_text_finds_its_own_vector(evaluated):
    numbered = tuple(f"tea {place}" for place in range(len(evaluated.collection.ids)))
    evaluated = replace(evaluated, collection=replace(evaluated.collection, texts=numbered))
    view = Numbered()
    rankings = systems.dense(view)(evaluated)
    assert view.calls == 1
    row = dict(zip(evaluated.collection.ids, range(len(numbered)), strict=True))
    for ranking in rankings:
        assert [row[found] for found in ranking] == sorted((row[found] for found in ranking), reverse=True)


class Constant:
    """Gives every text the same vector."""

    fingerprint, dim = "constant", 1

    def explain(self, text, side="query"):
        return text

    def embed_keys(self, texts):
        return np.ones((len(texts), 1), dtype=np.float32)

    embed_queries = embed_keys


class Numbered(Constant):
    """A text's vector is the number that it ends with, a query's is one; calls for texts are counted."""

    calls = 0

    def embed_keys(self, texts):
        self.calls += 1
        return np.array([[float(text.split()[-1])] for text in texts], dtype=np.float32).reshape(-1, 1)


def test_a_training_query_is_refused_unless_it_asks_about_other_texts(collection_folder):
    evaluated = read_set(collection_folder, task="qa", split="dev")
    check_no_leak(evaluated, training_queries(evaluated.collection), "farm")
    asked = evaluated.queries[0]
    text = evaluated.collection.texts[evaluated.collection.ids.index(asked.positives[0])]
    check_no_leak(evaluated, [(asked.text, ["Another text."])], "rows")
    for positives in ([text], []):
        with pytest.raises(LeakError, match="'q0-dev' of farm is in the training rows of rows"):
            check_no_leak(evaluated, [(asked.text.upper(), positives)], "rows")


def test_a_model_is_not_measured_on_what_it_or_its_rows_were_trained_on(collection_folder, tiny_encoder, tmp_path):
    evaluated = read_set(collection_folder, task="qa", split="train")
    rows = write_rows([Row("qa", evaluated.queries[0].text, neg=("Something else.",))], tmp_path / "rows.jsonl")
    with pytest.raises(LeakError, match=r"rows\.jsonl"):
        evaluate(str(tiny_encoder), [evaluated], cache=tmp_path / "cache", rows=rows)
    trained = shutil.copytree(tiny_encoder, tmp_path / "trained")
    recipe = Recipe.from_dict({"tasks": {"qa": {"sources": ["farm"], "labelled": 1}}})
    (trained / "recipe.yaml").write_text(recipe.to_yaml())
    with pytest.raises(LeakError, match="'q0-train' of farm is in the training rows of farm"):
        evaluate(str(trained), [evaluated], cache=tmp_path / "cache", data=collection_folder.parent)
    again = replace(recipe, tasks={"qa": replace(recipe.tasks["qa"], sources=("other",))})
    (trained / "recipe.yaml").write_text(again.to_yaml())
    (trained / "training.json").write_text('{"start": "first", "backbone": "minilm", "sources": ["farm"]}')
    with pytest.raises(LeakError, match="rows of farm"):
        evaluate(str(trained), [evaluated], cache=tmp_path / "cache", data=collection_folder.parent)


@pytest.mark.models
def test_a_model_is_compared_with_its_start_or_where_that_is_not_kept_with_its_backbone(
    collection_folder, tiny_encoder, tmp_path
):
    evaluated = read_set(collection_folder, task="qa", split="dev")
    trained = shutil.copytree(tiny_encoder, tmp_path / "trained")
    (trained / "training.json").write_text('{"start": "first", "backbone": "minilm", "sources": []}')
    for start, name in ((str(tiny_encoder), Path(tiny_encoder).name), ("./gone/first", "minilm")):
        recipe = Recipe.from_dict({"model": start, "tasks": {"qa": {"sources": ["other"], "labelled": 1}}})
        (trained / "recipe.yaml").write_text(recipe.to_yaml())
        report = evaluate(str(trained), [evaluated], cache=tmp_path / "cache")
        assert f"start: {name}" in next(iter(report["sets"].values()))["systems"]


def test_what_nothing_can_judge_is_refused_before_anything_is_encoded():
    asked = (Query("q", "Which?", ("This.",), (), "test", (), None, None),)
    bare = EvalSet("bare", "qa", Collection("bare", ("a",), ("A text.",), ("",), None, asked), asked)
    with pytest.raises(InputError, match="bare names no right texts"):
        evaluate("not a model", [bare], cache=Path("unused"))


def test_a_smaller_set_keeps_every_positive_and_whole_conversations(collection_folder):
    evaluated = read_set(collection_folder, task="qa", split="dev")
    small = shrink(evaluated, 2, 5)
    assert (len(small.queries), len(small.collection.ids)) == (2, 5)
    assert {identity for query in small.queries for identity in query.positives} <= set(small.collection.ids)
    assert small == shrink(evaluated, 2, 5)
    places = (("a", 0), ("a", 1), ("b", 0))
    asked = tuple(Query(f"q{who}", "tea", (), (), "test", (), who, 9) for who in "baa")
    talk = EvalSet("talk", "chat", Collection("talk", ("0", "1", "2"), ("x",) * 3, ("",) * 3, places, asked), asked)
    assert shrink(talk, 2, 1).collection.ids == ("0", "1")


def test_intervals_hold_the_difference():
    better = paired_bootstrap([0.9, 0.8, 0.7, 0.9] * 10, [0.5, 0.5, 0.4, 0.6] * 10)
    assert better.low < better.mean < better.high
    assert better.significant
    assert not paired_bootstrap([1.0, 0.0] * 10, [0.0, 1.0] * 10).significant
    with pytest.raises(InputError, match="as many values on both sides"):
        paired_bootstrap([1.0], [])


def test_rows_of_the_paper_are_a_set(tmp_path):
    rows = [
        {"query": "Hi", "history": ["a", "b"], "answers": ["Hello"], "task": "chat", "query_id": 1},
        {"query": "Ho", "history": ["a", "c"], "answers": ["Hey"], "task": "chat", "query_id": 2},
    ]
    (tmp_path / "msc.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    evaluated = read_paper_rows(tmp_path / "msc.jsonl")
    texts = evaluated.collection.texts
    assert [[texts[i] for i in evaluated.visible(query)] for query in evaluated.queries] == [["a", "b"], ["a", "c"]]


def test_a_set_is_measured_reported_and_compared(collection_folder, tmp_path, monkeypatch):
    (collection_folder / "info.json").write_text('{"role": "knowledge"}')
    (evaluated,) = find_sets(collection_folder.parent, ["farm"], split="dev", queries=None)
    report = evaluate("minilm", [evaluated], cache=tmp_path / "cache")
    found = report["sets"]["farm"]["systems"]
    assert {"minilm", "hybrid", "BM25", "random"} <= set(found)
    assert found["minilm"]["ndcg@10"]["mean"] > found["random"]["ndcg@10"]["mean"]
    monkeypatch.setattr(RoleView, "_embed", None)  # the second run encodes nothing
    again = evaluate("minilm", [evaluated], cache=tmp_path / "cache")
    assert again["sets"]["farm"]["systems"] == found
    assert "| minilm |" in to_markdown(report)
    assert re.search(r"\| farm \| ndcg@10 \| \S+ \| (BM25|random) \S+ \| [+-]\S+ \|", to_markdown(report))
    assert "| farm | ndcg@10 |" in compare(report, again)
    write_picture(report, tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 1000
    with pytest.raises(InputError, match="has no set 'sealtool'; it has farm"):
        find_sets(collection_folder.parent, ["sealtool"], split="dev", queries=None)
