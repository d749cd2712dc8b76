"""The paper's sets are read from small files in their authors' layout."""

import json
import tarfile

import huggingface_hub.constants
import pytest

from quadrieve import Role
from quadrieve.errors import InputError
from quadrieve_train.evaluation import systems
from quadrieve_train.evaluation.paper_sets import ARCHIVE, from_hub, paper_sets, read_paper_set
from quadrieve_train.evaluation.reading import prompt_for
from quadrieve_train.evaluation.run import find_sets

PASSAGES = [{"title": f"Town {i}", "text": f"It has {i} gates."} for i in range(6)]
FILES = {
    "qa/msmarco/corpus.json": PASSAGES,
    "qa/nq/corpus.json": PASSAGES,
    "qa/mmlu/test.json": [
        {
            "query_id": 0,
            "query": "How many gates has Town 2?",
            "choices": ["one", "two", "three", "four"],
            "answer": 1,
            "subject": "high_school_geography",
        }
    ],
    "qa/popqa/test.json": [
        {"query_id": 7, "query": "Who wrote Emma?", "obj": "Austen", "prop_id": 1, "possible_answers": ["Austen"]},
        {"query_id": 8, "query": "Who wrote Ulysses?", "obj": "Joyce", "prop_id": 1, "possible_answers": '["Joyce"]'},
        {"query_id": 9, "query": "In what city was Kant born?", "obj": "K", "prop_id": 2, "possible_answers": ["K"]},
    ],
    "chat/msc/test.json": [
        {"query_id": 0, "query": "Hi", "history": ["Speaker 1: a\nSpeaker 2: b", "c"], "answers": ["Hello"]}
    ],
    "convsearch/qrecc/corpus.json": [{"id": str(i), "text": f"Passage {i}"} for i in range(6)],
    "convsearch/qrecc/test.concat.json": [
        {"query_id": 3, "query": "Who? He? Where?", "answers": ["Rome"], "pos_index": [4]}
    ],
    "icl/icl/corpus.json": [
        {"contents": "Is it  so?\nYes", "task_name": "mnli"},
        {"contents": "Good film\nPositive", "task_name": "sst2"},
    ],
    "icl/icl/test.json": [
        {
            "query_id": 0,
            "query": "Bad  film",
            "answers": ["0"],
            "options": ["Negative", "Positive"],
            "task_name": "sst2",
        },
        {"query_id": 1, "query": "Is it?", "answers": ["1"], "options": ["Yes", "No"], "task_name": "mnli_mm"},
        {"query_id": 2, "query": "Sum up.", "answers": ["In short."], "task_name": "aeslc"},
    ],
    "tool/toolbench/corpus.json": [{"text": f"API {i}"} for i in range(40)],
    "tool/toolbench/test.json": [{"qid": "q1", "query": "I need two APIs.", "pos_index": [30, 2]}],
}


@pytest.fixture
def folder(tmp_path):
    root = tmp_path / "llm-embedder"
    for name, records in FILES.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return root


def test_every_set_is_found_with_its_role(folder):
    found = {evaluated.name: evaluated.role for evaluated in find_sets(folder, None, split="test", queries=None)}
    assert found == {
        "mmlu": Role.KNOWLEDGE,
        "popqa": Role.KNOWLEDGE,
        "msc": Role.MEMORY,
        "qrecc": Role.KNOWLEDGE,
        "icl": Role.EXAMPLE,
        "toolbench": Role.TOOL,
    }


def test_options_of_mmlu_are_told_apart_by_letter(folder):
    evaluated = read_paper_set(folder, "mmlu")
    (query,) = evaluated.queries
    assert (query.answers, query.choices) == (("B",), ("A", "B", "C", "D"))
    assert prompt_for(evaluated.role, query, ["Town 2 It has 2 gates."]).text == (
        "Knowledge:\nTown 2 It has 2 gates.\n\n"
        "The following are multiple-choice questions (with answers) about high school geography.\n\n"
        "How many gates has Town 2?\nA. one\nB. two\nC. three\nD. four\nAnswer:"
    )


def test_popqa_is_asked_behind_solved_questions_of_other_relations(folder):
    evaluated = read_paper_set(folder, "popqa")
    assert evaluated.queries[1].answers == ("Joyce",)
    assert prompt_for(evaluated.role, evaluated.queries[2], []).text == (
        "Q: Who wrote Emma? A: Austen\n\nQ: In what city was Kant born? A:"
    )
    assert evaluated.collection.texts[2] == "Town 2 It has 2 gates."


def test_answers_of_examples_are_options_by_number_and_tasks_share_pools(folder):
    evaluated = read_paper_set(folder, "icl")
    assert [query.answers for query in evaluated.queries] == [("Negative",), ("No",), ("In short.",)]
    assert [evaluated.queries[0].text, evaluated.collection.texts[0]] == ["Bad film", "Is it so?\nYes"]
    within = systems.within_task([["0", "1"]] * 3, evaluated, evaluated.collection.tasks)
    assert within == [["1"], ["0"], []]


def test_a_part_of_a_corpus_holds_the_positives(folder):
    evaluated = read_paper_set(folder, "toolbench", keys=5)
    assert len(evaluated.collection.ids) == 5
    text = dict(zip(evaluated.collection.ids, evaluated.collection.texts, strict=True))
    assert [text[identity] for identity in evaluated.queries[0].positives] == ["API 30", "API 2"]
    assert read_paper_set(folder, "qrecc").queries[0].positives == ("4",)


def test_another_layout_is_refused_in_one_sentence(folder):
    (folder / "tool/toolbench/test.json").write_text('{"query": "Which?", "pos_index": [40]}\n')
    with pytest.raises(InputError, match="has no line 40"):
        read_paper_set(folder, "toolbench")
    (folder / "qa/mmlu/test.json").write_text('{"question": "Which?"}\n')
    with pytest.raises(InputError, match="is not in the layout of mmlu: KeyError 'choices'"):
        read_paper_set(folder, "mmlu")
    with pytest.raises(InputError, match="Unknown set 'pg19'"):
        read_paper_set(folder, "pg19")


def test_the_archive_of_the_hub_is_unpacked_once(folder, tmp_path, monkeypatch):
    cached = tmp_path / "hub/datasets--namespace-Pt--projects"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs/main").write_text("c0ffee")
    (cached / "snapshots/c0ffee").mkdir(parents=True)
    with tarfile.open(cached / "snapshots/c0ffee" / ARCHIVE, "w:gz") as packed:
        packed.add(folder, "llm-embedder")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    unpacked = from_hub(tmp_path / "hub")
    assert set(paper_sets(unpacked)) == {"mmlu", "popqa", "msc", "qrecc", "icl", "toolbench"}
    (cached / "snapshots/c0ffee" / ARCHIVE).write_bytes(b"")
    assert from_hub(tmp_path / "hub") == unpacked
