"""A knowledge base."""

from pathlib import Path
from typing import Any

import pytest

from quadrieve import Embedder, InputError, KnowledgeBase

TEXTS = ["Bees make honey from nectar.", "The ferry leaves at nine.", "Error E-47 means low battery."]


@pytest.fixture
def kb(embedder: Embedder) -> KnowledgeBase:
    kb = KnowledgeBase.open(None, embedder=embedder)
    kb.add(TEXTS, metadatas=[{"n": 0, "lang": "en"}, {"n": 1, "lang": "en"}, {"n": 2, "lang": "de"}])
    return kb


def test_adding_twice_changes_nothing_and_encodes_nothing(kb: KnowledgeBase) -> None:
    version = kb.index.version
    ids = kb.add(TEXTS[:2], metadatas=[{"n": 0, "lang": "en"}, {"n": 1, "lang": "en"}])
    assert kb.count() == 3
    assert kb.index.version == version
    assert len(set(ids)) == 2


def test_a_known_id_gets_the_new_text_and_keeps_nothing_of_the_old(kb: KnowledgeBase) -> None:
    kb.add(["The old passage."], ids=["x"], metadatas=[{"old": 1, "both": 1}])
    kb.add(["The new passage."], ids=["x"], metadatas=[{"new": 1, "both": 2}])
    (hit,) = kb.search("passage", where={"both": 2})
    assert (hit.id, hit.text, hit.metadata) == ("x", "The new passage.", {"new": 1, "both": 2})
    assert kb.count({"old": 1}) == 0
    assert [hit.id for hit in kb.search("old", mode="lexical")] == []


@pytest.mark.parametrize("mode", ["hybrid", "dense", "lexical"])
def test_every_mode_honours_filters(kb: KnowledgeBase, mode: Any) -> None:
    hits = kb.search("honey ferry error", k=5, where={"lang": "en", "n": {"$gte": 1}}, mode=mode)
    assert [hit.text for hit in hits] == [TEXTS[1]]


def test_score_is_the_cosine_whatever_ranked_it_and_why_says_what_did(kb: KnowledgeBase, embedder: Embedder) -> None:
    query = "What does E-47 mean?"
    view = embedder.view("qa")
    for mode in ("hybrid", "dense", "lexical"):
        hit = kb.search(query, k=1, mode=mode)[0]  # type: ignore[arg-type]
        cosine = float(view.embed_queries([query])[0] @ view.embed_keys([hit.text])[0])
        assert hit.score == pytest.approx(cosine, abs=5e-3)
        assert set(hit.why) <= {"dense", "lexical"}
        assert 1 in hit.why.values()


def test_min_score_is_on_the_cosine(kb: KnowledgeBase) -> None:
    hits = kb.search("Where does honey come from?", k=3, min_score=0.4)
    assert [hit.text for hit in hits] == [TEXTS[0]]
    assert kb.search("Where does honey come from?", min_score=0.999) == []


def test_diversity_prefers_what_is_unlike_the_best(embedder: Embedder) -> None:
    kb = KnowledgeBase.open(None, embedder=embedder)
    kb.add(["Bees make honey.", "Bees make honey!", "Honey is sold at the harbour market."])
    plain = [hit.text for hit in kb.search("honey from bees", k=2, mode="dense")]
    diverse = [hit.text for hit in kb.search("honey from bees", k=2, mode="dense", diversity=0.7)]
    assert set(plain) == {"Bees make honey.", "Bees make honey!"}
    assert "Honey is sold at the harbour market." in diverse


def test_delete_by_filter_and_by_id(kb: KnowledgeBase) -> None:
    assert kb.delete(where={"lang": "en"}) == 2
    assert kb.delete(ids=["not there"]) == 0
    assert [hit.text for hit in kb.search("anything", k=5)] == [TEXTS[2]]
    with pytest.raises(InputError, match="Nothing says what to delete"):
        kb.delete()
    with pytest.raises(InputError, match="one string"):
        kb.delete(ids="abc")


def test_export_is_a_record_a_line_and_comes_back(kb: KnowledgeBase, embedder: Embedder, tmp_path: Path) -> None:
    import json

    assert kb.export(tmp_path / "out.jsonl") == 3
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert {"id", "text", "metadata"} <= set(lines[0])
    again = KnowledgeBase.load(tmp_path / "out.jsonl", embedder=embedder)
    assert again.search("honey", k=1)[0].metadata == {"n": 0, "lang": "en"}
    (tmp_path / "bad.jsonl").write_text('{"id": "a", "text": "fine"}\n{"id": "b"}\n')
    with pytest.raises(InputError, match="Line 2 of"):
        again.restore(tmp_path / "bad.jsonl")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kb: kb.add([]), "empty list"),
        (lambda kb: kb.add("text"), "put it in a list"),
        (lambda kb: kb.add([1]), "Text 0 is int"),
        (lambda kb: kb.add(["a"], ids=["1", "2"]), "ids must hold one entry for each of the 1 texts, got 2"),
        (lambda kb: kb.add(["a"], metadatas={"a": 1}), "got one dict"),
        (lambda kb: kb.add(["a"], metadatas=[{"a": float("nan")}]), "The metadata of text 0 must be JSON"),
        (lambda kb: kb.add(["a"], metadatas=[{"a": {1, 2}}]), "must be JSON"),
        (lambda kb: kb.add(["a", "b"], ids=["x", "x"]), "stands for two different records"),
        (lambda kb: kb.search(""), None),
        (lambda kb: kb.search(3), "The query is int"),
        (lambda kb: kb.search("a", k=0), "k must be a whole number"),
        (lambda kb: kb.search("a", mode="psychic"), "Unknown mode"),
        (lambda kb: kb.search("a", diversity=2), "from 0 to 1"),
    ],
)
def test_bad_input_gets_one_clear_sentence(kb: KnowledgeBase, call: Any, message: str | None) -> None:
    if message is None:
        call(kb)  # an empty query finds something by meaning, and nothing by words
        return
    with pytest.raises(InputError, match=message) as error:
        call(kb)
    assert "\n" not in str(error.value)


def test_long_texts_are_refused_if_asked(embedder: Embedder) -> None:
    kb = KnowledgeBase.open(None, embedder=embedder, on_long="error")
    with pytest.raises(InputError, match="tokens, minilm reads 256"):
        kb.add(["word " * 600])
    assert kb.count() == 0


@pytest.mark.models
def test_more_texts_than_chroma_takes_at_once(embedder: Embedder) -> None:
    kb = KnowledgeBase.open(None, embedder=embedder)
    kb.add([f"note {i}" for i in range(6000)])
    assert kb.count() == 6000
    assert kb.search("note 4711", k=1)[0].text == "note 4711"
