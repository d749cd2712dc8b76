"""Recipes: what YAML becomes, and how mistakes in it are told."""

from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from quadrieve.errors import InputError
from quadrieve_train import Recipe
from quadrieve_train.recipes import TaskRecipe

ROLES = {"qa", "chat", "icl", "tool"}
MINIMAL = {"tasks": {"qa": {"sources": ["farm"], "labelled": 2}}}


@pytest.mark.parametrize(
    ("name", "tasks"),
    [
        ("paper", ROLES),
        ("cpu", ROLES),
        ("release", ROLES),
        ("release-hard", ROLES),
        ("release-anchored", ROLES),
        ("release-examples", ROLES),
        ("release-expert-qa", {"qa"}),
        ("release-expert-chat", {"chat"}),
        ("release-expert-icl", {"icl"}),
    ],
)
def test_the_recipes_of_the_package_are_read_and_written_back(tmp_path, name, tasks):
    recipe = Recipe.load(name)
    path = tmp_path / "copy.yaml"
    path.write_text(recipe.to_yaml())
    assert Recipe.load(path) == recipe
    assert tasks <= set(recipe.tasks)


def test_the_recipe_of_the_readme_is_one(tmp_path):
    readme = (Path(__file__).parents[2] / "train" / "README.md").read_text()
    path = tmp_path / "my.yaml"
    path.write_text(readme.split("```yaml\n")[1].split("```")[0])
    assert Recipe.load(path).tasks["qa"].losses == {"graded": 1.0, "contrastive": 0.5}


def test_defaults_fill_what_a_recipe_leaves_out():
    recipe = Recipe.from_dict({**MINIMAL, "learning_rate": "2e-5", "pace": {"by": "loss"}, "matryoshka": [384, 128]})
    assert recipe.tasks["qa"] == TaskRecipe(("farm",), labelled=2)
    assert (recipe.learning_rate, recipe.pace.by, recipe.pace.interval) == (2e-5, "loss", 1000)
    assert recipe.matryoshka == (384, 128)


def test_a_recipe_for_one_of_its_tasks_is_the_same_but_for_the_others():
    recipe = Recipe.load("cpu")
    alone = recipe.only(["icl"])
    assert alone == replace(recipe, tasks={"icl": recipe.tasks["icl"]})
    with pytest.raises(InputError, match="no task 'cooking'; its tasks are qa, "):
        recipe.only(["qa", "cooking"])


def test_a_task_may_have_its_own_number_of_candidates_and_its_own_template():
    template = {"prompt": "{candidate}\n{query}", "bare": "{query}"}
    recipe = Recipe.from_dict({"tasks": {"qa": {**MINIMAL["tasks"]["qa"], "candidates": 3, "template": template}}})
    assert (recipe.candidates_of("qa"), recipe.candidates_of("tool")) == (3, recipe.candidates)
    assert recipe.tasks["qa"].template.fill("q", "c").text == "c\nq"
    with pytest.raises(InputError, match="must have candidate, query in braces"):
        Recipe.from_dict({"tasks": {"qa": {**MINIMAL["tasks"]["qa"], "template": {"prompt": "{query}", "bare": "q"}}}})


def test_rows_may_be_labelled_of_some_sources_only():
    recipe = Recipe.from_dict({"tasks": {"chat": {"sources": ["irc", "talks"], "labelled": {"irc": 4}}}})
    again = Recipe.from_dict(yaml.safe_load(recipe.to_yaml()))
    assert [again.tasks["chat"].labelled_of(source) for source in ("irc", "talks")] == [4, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rat": 1}, "unknown key 'learning_rat'; did you mean 'learning_rate'"),
        ({"mining": {"metod": "bm25"}}, "unknown key 'mining.metod'; did you mean 'method'"),
        ({"mining": {"method": "colbert"}}, "mining.method must be 'bm25', 'dense', 'both', got 'colbert'"),
        ({"steps": "many"}, "steps must be a whole number, got 'many'"),
        ({"steps": True}, "steps must be a whole number"),
        ({"tau": "cold"}, "tau must be a number"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"tasks": {"cooking": {"sources": ["a"]}}}, "Unknown role or task 'cooking'"),
        ({"tasks": {"knowledge": {"sources": ["a"]}}}, "is a role; name one of its tasks, such as 'qa'"),
        ({"tasks": {"qa": {"sources": ["a"], "losses": {"hinge": 1}}}}, "losses of graded, kl, contrastive"),
        ({"tasks": {"qa": {"sources": ["a"]}}}, "only losses that need rewards, and labelled is 0"),
        ({"tasks": {"qa": {"sources": ["a"], "labelled": {"a": 0}}}}, "only losses that need rewards"),
        ({"tasks": {"qa": {"sources": ["a"], "labelled": {"b": 9}}}}, "labelled names sources of the task, a; got"),
        ({"tasks": {"qa": {"sources": ["a"], "labelled": "few"}}}, "labelled must be a whole number, got 'few'"),
        ({"tasks": {"qa": {"labelled": 3}}}, "tasks.qa lacks a key"),
        ({"tasks": {"qa": {**MINIMAL["tasks"]["qa"], "shares": {"farm": 1}}}}, "shares goes with batching: source"),
        ({"tasks": {"qa": {**MINIMAL["tasks"]["qa"], "anchor": -1}}}, "tasks.qa.anchor must be at least 0, got -1.0"),
        ({**MINIMAL, "anchor_revision": "main"}, "anchor_revision 'main' is of the anchor_model"),
        ({"tasks": {}}, "at least one task"),
        ({"tasks": [1]}, "tasks must be a mapping"),
        ({"stop_on": ["boredom"]}, "Unknown monitor 'boredom'"),
    ],
)
def test_mistakes_are_named(change, message):
    with pytest.raises(InputError) as error:
        Recipe.from_dict({**MINIMAL, **change})
    assert message in str(error.value)


def test_files_that_are_no_recipes_are_refused(tmp_path):
    with pytest.raises(InputError, match="expected a YAML file or one of cpu, paper"):
        Recipe.load("nowhere")
    (tmp_path / "bad.yaml").write_text("tasks: [unclosed")
    with pytest.raises(InputError, match="is not YAML"):
        Recipe.load(tmp_path / "bad.yaml")
    (tmp_path / "bad.yaml").write_text("a: !!python/object/apply:os.system ['true']")
    with pytest.raises(InputError, match="is not YAML"):
        Recipe.load(tmp_path / "bad.yaml")
