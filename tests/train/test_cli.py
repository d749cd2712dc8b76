"""The commands: help with an example, one-line errors, exit statuses, JSON."""

import json
from dataclasses import replace

import pytest

from quadrieve_train import Recipe
from quadrieve_train.rows import Row, read_rows, row_at


@pytest.mark.parametrize("command", ["label", "train", "merge", "shrink"])
def test_help_has_an_example(run_command, command):
    status, out, _ = run_command(command, "--help")
    assert status == 0
    assert f"Example: quadrieve {command}" in " ".join(out.split())


def test_wrong_use_takes_one_line_and_status_2(run_command, tmp_path):
    status, _, errors = run_command("train", "nowhere")
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith("quadrieve: No recipe 'nowhere'")
    status, _, errors = run_command("train", "cpu", "--task", "cooking")
    assert (status, "no task 'cooking'; its tasks are" in errors) == (2, True)
    (tmp_path / "rows.jsonl").write_text('{"query": "q"}\n')
    status, _, errors = run_command("label", tmp_path / "rows.jsonl", "--out", tmp_path / "out.jsonl", "--task", "qa")
    assert status == 2
    assert "rows.jsonl:1: there is no candidate" in errors
    _, _, errors = run_command("label", tmp_path, "--out", tmp_path / "out.jsonl")
    assert "name the task of its queries with --task" in errors


def test_label_writes_rows_with_rewards_and_prints_their_health(run_command, tiny_lm, tmp_path):
    row = Row("icl", "3 + 4", ("3 + 5\n8",), ("Is it raining?\nno",), "b", ("7",), choices=("7", "9", "no"))
    (tmp_path / "rows.jsonl").write_text(row.to_json() + "\n")
    arguments = ("--lm", tiny_lm, "--out", tmp_path / "out.jsonl", "--json")
    status, out, errors = run_command("label", tmp_path / "rows.jsonl", *arguments)
    assert status == 0, errors
    assert json.loads(out)["health"]["rows"] == 1
    labelled = row_at(read_rows(tmp_path / "out.jsonl", cache_dir=str(tmp_path)), 0)
    assert len(labelled.rewards) == 2
    assert labelled.rewarded_by.endswith(" rank")


def test_train_takes_seed_and_steps_in_place_of_the_recipes(run_command, tiny_encoder, collection_folder, tmp_path):
    task = {"sources": [collection_folder.name], "labelled": 0, "losses": {"contrastive": 1.0}}
    recipe = Recipe.from_dict({"model": str(tiny_encoder), "tasks": {"qa": task}, "steps": 500, "seed": 1})
    (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
    arguments = ("--data", tmp_path, "--out", tmp_path / "model", "--seed", 7, "--cpu", "--json")
    status, out, errors = run_command("train", tmp_path / "recipe.yaml", *arguments, "--steps", 2)
    assert status == 0, errors
    assert set(json.loads(out)["after"]) == {"qa"}
    assert Recipe.load(tmp_path / "model" / "recipe.yaml") == replace(recipe, seed=7, steps=2)
    status, _, errors = run_command("train", tmp_path / "recipe.yaml", *arguments, "--steps", 0)
    assert (status, "steps must be at least 1" in errors) == (2, True)
