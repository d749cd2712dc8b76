"""Hard negatives: what is found, what is left out, and what a stopped run does."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quadrieve import Embedder
from quadrieve.errors import InputError, StoreError
from quadrieve_train import mine, read_collection
from quadrieve_train.rows import Collection, Query, as_row


def rows_of(*args, **options):
    return [as_row(record) for record in mine(*args, **options)]


def collection_of(texts, queries, places=None, titles=()):
    ids = tuple(str(i) for i in range(len(texts)))
    return Collection("c", ids, tuple(texts), tuple(titles) or ("",) * len(texts), places, tuple(queries))


def query(text, positives=(), answers=(), conversation=None, turn=None, choices=()):
    return Query(f"q-{text}", text, tuple(answers), tuple(positives), "train", choices, conversation, turn)


@pytest.mark.parametrize("method", ["bm25", "dense", "both"])
def test_every_ranker_finds_negatives_that_are_not_labelled_and_not_the_positives_text(collection_folder, method):
    view = Embedder.load("minilm").view("qa")
    rows = rows_of(read_collection(collection_folder), "qa", method=method, view=view, margin=float("inf"))
    assert len(rows) == 10
    for row in rows:
        assert row.pos
        assert row.neg
        assert not set(row.pos) & set(row.neg)
    # "Who makes honey?": the passage about buying honey is the hard one
    assert any("buy honey" in text for text in rows[0].neg)


def test_candidates_that_the_backbone_finds_as_good_as_the_positive_are_dropped():
    texts = ["Bees make honey.", "Honey is made by bees.", "Honey is sweet.", "The honey market opens at nine."]
    collection = collection_of(texts, [query("Who makes honey?", ["0"])])
    view = Embedder.load("minilm").view("qa")
    (kept,) = rows_of(collection, "qa", method="both", view=view, margin=0.95)
    (everything,) = rows_of(collection, "qa", method="both", view=view, margin=float("inf"))
    assert "Honey is made by bees." in everything.neg
    assert "Honey is made by bees." not in kept.neg
    assert "The honey market opens at nine." in kept.neg


def test_candidates_that_bear_an_answer_are_dropped_unless_answers_are_a_closed_set():
    texts = ["Ada Lovelace wrote the first program.", "The first program ran on Ada, Lovelace's machine.", "A program."]
    asked = query("Who wrote the first program?", ["0"], answers=["Ada Lovelace"])
    options = {"method": "bm25", "margin": float("inf")}
    (row,) = rows_of(collection_of(texts, [asked]), "qa", **options)
    assert row.neg == ("A program.",)
    (kept,) = rows_of(collection_of(texts, [asked]), "qa", drop_answers=False, **options)
    assert len(kept.neg) == 2
    closed = query("Who wrote the first program?", ["0"], answers=["Ada Lovelace"], choices=("Ada Lovelace", "Bob"))
    (choice,) = rows_of(collection_of(texts, [closed]), "qa", **options)
    assert len(choice.neg) == 2


@pytest.mark.parametrize("method", ["bm25", "dense", "both"])
def test_a_text_that_answers_no_training_query_is_no_negative_unless_the_whole_corpus_is_mined(method):
    texts = ["Bees make honey.", "The ant makes hills.", "Who makes honey must wear a veil.", "Wasps make paper."]
    asked = [query("Who makes honey?", ["0"]), query("Who makes hills?", ["1"])]
    later = Query("later", "What must who makes honey wear?", (), ("2",), "test", (), None, None)
    collection = collection_of(texts, [*asked, later])
    options = {"method": method, "view": Embedder.load("minilm").view("qa"), "margin": float("inf")}
    first, _ = rows_of(collection, "qa", **options)
    assert "Who makes honey must wear a veil." in first.neg
    for row, right in zip(rows_of(collection, "qa", among="positives", **options), ("0", "1"), strict=True):
        assert row.pos == (texts[int(right)],)
        assert set(row.neg) <= {texts[0], texts[1]}
    assert rows_of(collection, "qa", among="positives", **options)[0].neg == ("The ant makes hills.",)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=3, max_size=30), st.integers(0, 9))
def test_memory_candidates_come_only_from_earlier_in_the_same_conversation(places, turn):
    texts = [f"we spoke of topic {i} in {where} at {when}" for i, (where, when) in enumerate(places)]
    asked = query("which topic did we speak of", conversation="a", turn=turn)
    collection = collection_of([*texts, "other"], [asked], (*places, ("z", 0)))
    for row in rows_of(collection, "chat", method="bm25"):
        for text in row.neg:
            where, when = places[texts.index(text)]
            assert (where, when < turn) == ("a", True)


def test_the_desired_output_of_a_request_is_the_right_tools_name_among_others(collection_folder):
    (row, *_) = rows_of(read_collection(collection_folder), "tool", method="bm25", margin=float("inf"))
    assert row.answers == ("give_honey",)
    assert "give_honey" in row.choices
    assert len(row.choices) > 1


def test_draws_are_the_same_for_a_seed_and_others_for_another(collection_folder):
    collection, view = read_collection(collection_folder), Embedder.load("minilm").view("qa")
    options = {"method": "dense", "view": view, "keep": 2, "margin": float("inf")}
    first = rows_of(collection, "qa", seed=1, **options)
    assert rows_of(collection, "qa", seed=1, **options) == first
    assert rows_of(collection, "qa", seed=2, **options) != first


def test_a_stopped_run_goes_on_without_ranking_twice(tmp_path, collection_folder, monkeypatch):
    collection = read_collection(collection_folder)
    whole = rows_of(collection, "qa", method="bm25", folder=tmp_path / "mined")
    monkeypatch.setattr("quadrieve_train.mining._row", lambda *_: pytest.fail("a finished part was ranked again"))
    assert rows_of(collection, "qa", method="bm25", folder=tmp_path / "mined") == whole
    with pytest.raises(StoreError, match="other data or with other options"):
        mine(collection, "qa", method="bm25", keep=3, folder=tmp_path / "mined")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "colbert"}, "Unknown mining method"),
        ({"method": "dense"}, "pass its view"),
        ({"method": "bm25", "keep": 0}, "at least 1"),
        ({"method": "bm25", "split": "test"}, "it has dev, train"),
        ({"method": "bm25", "among": "seen"}, "'corpus' or 'positives'"),
    ],
)
def test_mining_refuses_what_does_not_fit(collection_folder, options, message):
    with pytest.raises(InputError, match=message):
        mine(read_collection(collection_folder), "qa", **options)


def test_a_query_without_candidates_gives_no_row():
    collection = collection_of(["later"], [query("q", conversation="a", turn=0)], (("a", 3),))
    assert rows_of(collection, "chat", method="bm25") == []


def test_negatives_among_positives_need_positives():
    collection = collection_of(["Bees make honey."], [query("Who makes honey?")])
    with pytest.raises(InputError, match="has positives; mine among='corpus'"):
        mine(collection, "qa", method="bm25", among="positives")


def test_what_was_mined_is_not_reused_when_a_query_or_what_is_right_for_it_changed(tmp_path):
    texts, first = ["Bees make honey.", "Ants make hills."], query("a", ["0"])
    mine(collection_of(texts, [first]), "qa", method="bm25", folder=tmp_path)
    mine(collection_of(texts, [first]), "qa", method="bm25", folder=tmp_path)
    for changed in (
        replace(first, text="b"),
        replace(first, positives=("1",)),
        replace(first, answers=("bees",)),
        replace(first, conversation="c", turn=3),
    ):
        with pytest.raises(StoreError, match="other data or with other options"):
            mine(collection_of(texts, [changed]), "qa", method="bm25", folder=tmp_path)


def test_what_was_mined_among_positives_is_not_reused_when_other_texts_are_right(tmp_path):
    texts, options = ["Bees make honey.", "Ants make hills."], {"method": "bm25", "among": "positives", "limit": 1}
    mine(collection_of(texts, [query("a", ["0"]), query("b", ["1"])]), "qa", folder=tmp_path, **options)
    with pytest.raises(StoreError, match="other data or with other options"):
        mine(collection_of(texts, [query("a", ["0"]), query("b", ["0"])]), "qa", folder=tmp_path, **options)
