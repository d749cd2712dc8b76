"""The commands: help with an example, one-line errors, exit statuses, JSON."""

import json
import subprocess
import sys

import pytest

from quadrieve_train.rows import Row, read_rows, row_at


def run(*arguments):
    command = [sys.executable, "-m", "quadrieve_train", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize("command", ["label", "train"])
def test_help_has_an_example(command):
    done = run(command, "--help")
    assert done.returncode == 0
    assert f"Example: quadrieve {command}" in " ".join(done.stdout.split())


def test_wrong_use_takes_one_line_and_status_2(tmp_path):
    done = run("train", "nowhere")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith("quadrieve: No recipe 'nowhere'")
    (tmp_path / "rows.jsonl").write_text('{"query": "q"}\n')
    done = run("label", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--task", "qa")
    assert done.returncode == 2
    assert "rows.jsonl:1: there is no candidate" in done.stderr
    done = run("label", tmp_path, "--out", tmp_path / "out.jsonl")
    assert "name the task of its queries with --task" in done.stderr


def test_label_writes_rows_with_rewards_and_prints_their_health(tiny_lm, tmp_path):
    row = Row("icl", "3 + 4", ("3 + 5\n8",), ("Is it raining?\nno",), "b", ("7",), choices=("7", "9", "no"))
    (tmp_path / "rows.jsonl").write_text(row.to_json() + "\n")
    done = run("label", tmp_path / "rows.jsonl", "--lm", tiny_lm, "--out", tmp_path / "out.jsonl", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["health"]["rows"] == 1
    labelled = row_at(read_rows(tmp_path / "out.jsonl", cache_dir=str(tmp_path)), 0)
    assert len(labelled.rewards) == 2
    assert labelled.rewarded_by.endswith(" rank")
