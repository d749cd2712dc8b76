"""Rewards: their formula, what a language model makes of real candidates, and a store that survives a kill."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quadrieve.errors import InputError, StoreError
from quadrieve_train import RewardStore, label, reward_health
from quadrieve_train.rewards import LabelOptions, Scored, Template, answer_quality, rank_of_first, rank_reward
from quadrieve_train.rewards.templates import TEMPLATES
from quadrieve_train.rows import Row, as_row

ROWS = [
    Row(
        "qa", "What colour is a glorp?", ("A glorp is always purple.",), ("The bus leaves at nine.",), "a", ("purple",)
    ),
    Row("icl", "3 + 4", ("3 + 5\n8",), ("Is it raining?\nno",), "b", ("7",), choices=("7", "9", "no")),
    Row(
        "qa",
        "Which colour is a glorp?",
        ("A glorp is always purple.",),
        ("The bus leaves at nine.",),
        "d",
        ("purple",),
        choices=("green", "red", "blue", "yellow", "purple"),
    ),
    Row("tool", "Book a flight", ("fly: Books flights.",), ("cook: Finds recipes.",), "c", ("fly",), ("fly", "cook")),
]


class CountingLM:
    """The real model, and a count of what it is asked."""

    def __init__(self, lm):
        self.lm, self.revision = lm, lm.revision
        self.scored, self.sampled = 0, 0

    def chat(self, prompt):
        return self.lm.chat(prompt)

    def score(self, prompt, outputs):
        return self.score_many([(prompt, outputs)])[0]

    def score_many(self, requests):
        self.scored += len(requests)
        return self.lm.score_many(requests)

    def sample(self, *args, **options):
        self.sampled += 1
        return self.lm.sample(*args, **options)


@given(st.lists(st.sampled_from([-3.0, -2.0, -1.0]), min_size=2, max_size=8), st.randoms())
def test_rank_reward_is_the_improvement_of_the_rank_over_the_number_of_others(without, random):
    with_candidate = random.sample(without, len(without))
    order = sorted(without, reverse=True)
    places = [i for i, score in enumerate(order, start=1) if score == without[0]]
    assert rank_of_first(without) == sum(places) / len(places)
    reward = rank_reward(without, with_candidate)
    assert -1 <= reward <= 1
    assert reward == (rank_of_first(without) - rank_of_first(with_candidate)) / (len(without) - 1)
    assert rank_reward(with_candidate, without) == -reward


@pytest.mark.models
@pytest.mark.parametrize("kind", ["rank", "likelihood"])
def test_a_candidate_that_helps_is_worth_more_and_nothing_is_scored_twice(lm, tmp_path, kind):
    counting = CountingLM(lm)
    options = LabelOptions(kind=kind, max_new_tokens=6, outputs=4, chat=False)
    labelled = [as_row(record) for record in label(ROWS, counting, tmp_path, options)]
    assert [row.query_id for row in labelled] == ["a", "b", "d", "c"]
    helpful, useless = labelled[2].rewards
    assert helpful > useless
    assert all(row.rewarded_by == f"{lm.revision} {kind}" for row in labelled)
    assert counting.scored == sum(1 + len(row.candidates) for row in ROWS)
    assert counting.sampled >= (kind == "rank")  # only the open-ended question samples
    again = CountingLM(lm)
    assert [as_row(record) for record in label(ROWS, again, tmp_path, options)] == labelled
    assert (again.scored, again.sampled) == (0, 0)


@pytest.mark.models
def test_answers_with_each_candidate_are_rated_where_quality_is_asked_for(lm, tmp_path):
    options = LabelOptions(kind="likelihood", max_new_tokens=12, quality=True)
    founded = "The village of Elmbridge was founded by Margaret Holloway."
    asked = Row("qa", "Who founded the village of Elmbridge?", (founded,), ("The bus leaves at nine.",))
    (row,) = (as_row(r) for r in label([replace(asked, answers=("Margaret Holloway",))], lm, tmp_path, options))
    assert row.qualities[0] > row.qualities[1]
    assert answer_quality("Purple!", ["purple"]) == 1
    assert answer_quality("", ["purple"]) == 0


def test_rows_without_answers_are_refused_by_name(lm, tmp_path):
    with pytest.raises(InputError, match="Row x7 of task 'qa' has no answer, and the rank reward needs"):
        label([Row("qa", "q", ("a",), ("b",), query_id="x7")], lm, tmp_path)


def test_templates_fill_each_field_once_and_refuse_missing_ones():
    for template in TEMPLATES.values():
        filled = template.fill("{candidate} {query}", "{query}", "")
        assert filled.text.count("{query}") == 2
        assert filled.candidate == "{query}"
    with pytest.raises(InputError, match="must have candidate, query in braces"):
        Template("{query}", "{query}")
    with pytest.raises(InputError, match="no field but"):
        Template("{candidate}{query}{__class__}", "{query}")


def test_the_store_is_readable_as_a_dataset_and_keeps_what_came_first(tmp_path):
    scored = Scored("lm", "qa", "Who?", "fact", "fact Who?", (" Ada", " Bob"), (-2.0, -1.0))
    with RewardStore(tmp_path) as store:
        store.put([scored])
        store.put([Scored(*[getattr(scored, name) for name in scored.__slots__[:6]], (-9.0, -9.0))])
        assert store.put_samples("key", ["a"]) == store.put_samples("key", ["b"]) == ["a"]
    with RewardStore(tmp_path) as store:
        (record,) = store.dataset()
    assert (record["candidate"], record["scores"], record["rank"]) == ("fact", [-2.0, -1.0], 2.0)


def test_scores_of_another_model_prompt_or_outputs_have_another_key():
    scored = Scored("lm", "qa", "Who?", "fact", "prompt", (" Ada",))
    others = [
        Scored("lm2", "qa", "Who?", "fact", "prompt", (" Ada",)),
        Scored("lm", "qa", "Who?", "fact", "prompt2", (" Ada",)),
        Scored("lm", "qa", "Who?", "fact", "prompt", (" Ada", " Bob")),
    ]
    assert len({scored.key, *(other.key for other in others)}) == 4


def _write_many(folder, number):
    with RewardStore(folder) as store:
        for i in range(50):
            if store.claim(f"work-{i}"):
                store.put([Scored("lm", "qa", f"{i}", str(os.getpid()), f"{i}", ("a",), (float(number),))])


def test_processes_share_a_store_and_no_piece_of_work_is_done_twice(tmp_path):
    RewardStore(tmp_path).close()
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_write_many, args=(tmp_path, number)) for number in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    with RewardStore(tmp_path) as store:
        assert len(store) == 50


def test_the_claims_of_a_killed_process_are_free_again(tmp_path):
    code = (
        "import sys, time; from quadrieve_train import RewardStore\n"
        f"store = RewardStore({str(tmp_path)!r}); store.claim('work'); print('claimed', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "claimed\n"
    with RewardStore(tmp_path) as store:
        assert not store.claim("work")
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert store.claim("work")
        assert store.claim("work")  # its own


def test_labelling_killed_half_way_goes_on_with_nothing_scored_twice(run_command, tiny_lm, tmp_path):
    count, rows = 128, tmp_path / "rows.jsonl"  # eight groups: enough time to be killed between two
    many = [
        Row("icl", f"{i} + 1", (f"{i} + 2\n{i + 2}",), ("x\ny",), str(i), (str(i + 1),), ("7", "9", str(i + 1)))
        for i in range(count)
    ]
    rows.write_text("".join(row.to_json() + "\n" for row in many))
    command = ["label", rows, "--out", tmp_path / "out.jsonl", "--no-chat"]
    command += ["--lm", tiny_lm, "--store", tmp_path / "store", "--json"]
    process = subprocess.Popen([sys.executable, "-m", "quadrieve_train", *map(str, command)], stdout=subprocess.DEVNULL)
    deadline = time.time() + 240
    while time.time() < deadline and process.poll() is None:
        if (tmp_path / "store" / "rewards.sqlite3").exists():
            with RewardStore(tmp_path / "store") as store:
                if len(store) >= 40:
                    break
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out.jsonl").exists()
    with RewardStore(tmp_path / "store") as store:
        done = len(store)
        before = {record["query"]: record["scores"] for record in store.dataset() if record["candidate"] is None}
    assert 40 <= done < count * 3
    status, out, errors = run_command(*command)
    assert status == 0, errors
    assert json.loads(out)["health"]["rows"] == count
    with RewardStore(tmp_path / "store") as store:
        assert len(store) == count * 3
        after = {record["query"]: record["scores"] for record in store.dataset() if record["candidate"] is None}
    assert all(after[query] == scores for query, scores in before.items())


def test_a_store_that_is_no_database_is_refused(tmp_path):
    (tmp_path / "rewards.sqlite3").write_bytes(b"this is not a database, but it is long enough to look like one" * 9)
    with pytest.raises(StoreError, match="cannot be opened"):
        RewardStore(tmp_path)


def test_a_store_that_cannot_be_written_any_more_says_so(tmp_path):
    with RewardStore(tmp_path) as store:
        pages = store._database.execute("PRAGMA page_count").fetchone()[0]
        store._database.execute(f"PRAGMA max_page_count = {pages}")  # as good as a full disk
        with pytest.raises(StoreError, match=r"cannot be written: database or disk is full"):
            store.put([Scored("lm", "qa", "q", "c", "p", ("a" * 20_000,), (-1.0,))])


def test_health_tells_ties_flat_groups_weights_the_positives_rank_and_agreement():
    rows = [
        Row("qa", "q", ("a",), ("b", "c"), rewards=(1.0, 0.0, 0.0)),
        Row("qa", "q", ("a",), ("b", "c"), rewards=(0.0, 0.0, 0.0)),
        Row("qa", "q", ("a",), ("b",)),
    ]
    health = reward_health(rows, other=[(3.0, 2.0, 1.0), (1.0, 2.0, 3.0), ()])
    assert health.rows == 2
    assert health.tie_rate == pytest.approx((1 / 3 + 1) / 2)
    assert health.flat_share == 0.5
    assert health.positive_rank == pytest.approx(0.25)
    assert health.agreement == pytest.approx((2 / 6**0.5), abs=1e-6)
    assert reward_health(rows[:1], tau_reward=0.01).weight_entropy == pytest.approx(0, abs=1e-6)
    assert reward_health(rows[1:2]).weight_entropy == pytest.approx(1)
    with pytest.raises(InputError, match="label the rows first"):
        reward_health(rows[2:])
