"""The demo, as a newcomer runs it."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from quadrieve_demos import texts

COMMAND = Path(sys.executable).with_name("quadrieve")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def shown() -> dict[str, Any]:
    done = run("demo", "--json")
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    return result


@pytest.mark.models
def test_all_four_roles_answer(shown: dict[str, Any]) -> None:
    for role in ("knowledge", "memory", "example", "tool"):
        cases = [case for case in shown["cases"] if case["role"] == role]
        assert len(cases) == 3
        assert sum(case["found"] for case in cases) >= 2, role
        assert sum(case["answered"] for case in cases) >= 1, role


@pytest.mark.models
def test_each_case_shows_what_was_said_with_and_without(shown: dict[str, Any]) -> None:
    for case in shown["cases"]:
        assert case["said"]
        assert case["without"]
        assert case["retrieved"]
        assert case["asked"]


@pytest.mark.models
def test_retrieval_helps_the_reading_model(shown: dict[str, Any]) -> None:
    helped = sum(case["answered"] for case in shown["cases"])
    alone = sum(case["right"].casefold() in case["without"].casefold() for case in shown["cases"])
    assert helped > alone


def test_the_texts_are_as_many_as_promised() -> None:
    passages, turns = texts.read("passages"), texts.read("turns")
    assert len(passages) >= 60
    assert len({row["topic"] for row in passages}) == 8
    assert len(turns) >= 40
    assert len({row["session"] for row in turns}) == 5
    examples = texts.examples()
    assert len(examples) >= 60
    assert len({example.task for example in examples}) == 4
    tools = texts.tools()
    assert len(tools) >= 120
    assert all(tool.parameters.get("properties") for tool in tools)


def test_wrong_usage_ends_with_status_2_and_failure_with_1_in_one_line() -> None:
    assert run("demo", "--role", "wisdom").returncode == 2
    assert run("no-such-command").returncode == 2
    done = run("demo", "--role", "tool", "--model", "./no/such/folder")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("quadrieve: No model at './no/such/folder'")


def test_help_names_an_example_and_comes_quickly() -> None:
    import time

    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        done = run("--help")
        seconds.append(time.perf_counter() - start)
        assert done.returncode == 0
    assert "Example: quadrieve demo" in done.stdout
    assert "Example: quadrieve demo" in run("demo", "--help").stdout
    assert min(seconds) < 1
