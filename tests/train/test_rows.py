"""Rows in all the shapes in which they are released, and errors that say where."""

import json

import pytest
from datasets import Dataset

from quadrieve.errors import InputError
from quadrieve_train import read_collection, read_rows, rows_from
from quadrieve_train.collating import draw_candidates
from quadrieve_train.rows import Row, as_row, parse_row, row_at, write_rows

# One row of each task in the fields that the paper's released files have.
RELEASED = {
    "qa": {"query": "q", "query_id": 7, "pos": ["a"], "neg": ["b"], "teacher_scores": [-1.0, -2.0], "answers": ["x"]},
    "convsearch": {"query": "q", "query_id": 0, "pos": ["a"], "pos_index": ["54386775"], "neg": ["b"]},
    "chat": {"query": "q", "query_id": 0, "history": ["a", "b"], "answers": ["x"], "teacher_scores": [-1, -2]},
    "lrlm": {"query": "q", "pos": [], "neg": ["a", "b"], "context": "c", "answers": ["x"], "teacher_scores": [-1, -2]},
    "icl": {
        "query": "q",
        "pos": ["a"],
        "pos_scores": [-1],
        "neg": ["b"],
        "neg_score": [-2],
        "teacher_scores": [-1, -2],
    },
    "tool": {"query": "q", "qid": "49635", "pos": ["a"], "neg": ["b"]},
}


def write_lines(path, records):
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in records))
    return path


@pytest.mark.parametrize("streaming", [False, True])
def test_released_rows_of_all_six_tasks_are_read_as_they_are(tmp_path, streaming):
    path = write_lines(tmp_path / "rows.jsonl", [{**row, "task": task} for task, row in RELEASED.items()])
    rows = [as_row(record) for record in read_rows(path, streaming=streaming, cache_dir=str(tmp_path))]
    assert [row.task for row in rows] == list(RELEASED)
    assert all(row.candidates == ("a", "b") for row in rows)
    assert [row.query_id for row in rows] == ["7", "0", "0", "", "", "49635"]
    assert rows[2].rewards == (-1.0, -2.0)
    assert rows[3].context == "c"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"query": "q"', "line.jsonl:3: "),
        ({"query": "q", "neg": ["a"], "task": "qa", "teacher_scores": [1, 2]}, "2 numbers for 1 candidates"),
        ({"query": "q", "neg": ["a"], "task": "qa", "teacher_scores": [float("nan")]}, "finite numbers"),
        ({"query": "", "neg": ["a"], "task": "qa"}, "'query' must be a text"),
        ({"query": "q", "neg": "a", "pos": [3], "task": "qa"}, "'pos' must be a list of texts"),
        ({"query": "q", "task": "qa"}, "no candidate"),
        ({"query": "q", "neg": ["a"]}, "names no task"),
        ({"query": "q", "neg": ["a"], "task": "cooking"}, "'cooking'"),
        ([1], "expected a JSON object"),
    ],
)
@pytest.mark.parametrize("streaming", [False, True])
def test_a_wrong_row_is_refused_with_its_line(tmp_path, line, message, streaming):
    good = {"query": "q", "neg": ["a"], "task": "qa"}
    path = write_lines(tmp_path / "line.jsonl", [good, "", line])
    with pytest.raises(InputError, match=r"line\.jsonl:3: ") as error:
        list(read_rows(path, streaming=streaming, cache_dir=str(tmp_path)))
    assert message in str(error.value)


def test_rows_are_memory_mapped_and_a_changed_file_is_read_again(tmp_path):
    path = write_lines(tmp_path / "rows.jsonl", [{"query": "old", "neg": ["a"], "task": "qa"}])
    first = read_rows(path, cache_dir=str(tmp_path / "cache"))
    assert first.cache_files
    write_lines(path, [{"query": "new one", "neg": ["a"], "task": "qa"}])
    assert row_at(read_rows(path, cache_dir=str(tmp_path / "cache")), 0).query == "new one"


def test_any_dataset_with_named_columns_becomes_rows():
    dataset = Dataset.from_dict({"q": ["Who?", "What?"], "good": ["a", "b"], "bad": [["c"], ["d", "e"]]})
    rows = [as_row(record) for record in rows_from(dataset, "qa", query="q", pos="good", neg="bad")]
    assert rows[1] == Row("qa", "What?", pos=("b",), neg=("d", "e"))
    with pytest.raises(InputError, match="no column 'question'"):
        rows_from(dataset, "qa", query="question")
    with pytest.raises(InputError, match="Unknown field 'question'"):
        rows_from(dataset, "qa", question="q")
    with pytest.raises(InputError, match="row 1: "):
        rows_from([{"q": None, "p": "x"}], "qa", query="q", pos="p")


def test_written_rows_are_read_back(tmp_path):
    row = Row("qa", "Wer?", ("ä",), ("b",), "7", ("x",), ("x", "y"), "c", (1.0, 0.5), "lm rank", (0.0, 1.0))
    written = write_rows([row], tmp_path / "rows.jsonl")
    assert parse_row(json.loads(written.read_text())) == row
    assert row_at(read_rows(written, cache_dir=str(tmp_path)), 0) == row


def test_a_collection_bounds_candidates_by_conversation_and_names_wrong_lines(tmp_path, collection_folder):
    collection = read_collection(collection_folder)
    assert len(collection.ids) == 20
    assert len(collection.split("dev")) == 4
    assert collection.places is None
    (collection_folder / "queries.jsonl").write_text('{"id": "q", "text": "?", "positives": ["gone"]}\n')
    with pytest.raises(InputError, match=r"queries\.jsonl:1: the positive 'gone' is not in the corpus"):
        read_collection(collection_folder)


def test_drawn_candidates_keep_a_positive_their_rewards_and_are_the_same_for_a_seed():
    row = Row("qa", "q", ("a", "b"), tuple("cdefgh"), rewards=tuple(range(8)), qualities=tuple(range(8)))
    drawn = draw_candidates(row, 4, "seed")
    assert drawn == draw_candidates(row, 4, "seed")
    assert len(drawn.pos) == 1
    assert [row.candidates[int(reward)] for reward in drawn.rewards] == list(drawn.candidates)
    assert drawn.qualities == drawn.rewards
    assert len({draw_candidates(row, 4, seed).candidates for seed in range(20)}) > 5
