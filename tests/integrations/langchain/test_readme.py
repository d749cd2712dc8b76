"""Each snippet of the package's README runs as it stands, and does what is said of it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from langchain_core.messages import AIMessage

import langchain_quadrieve

README = (Path(langchain_quadrieve.__file__).parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^## (\w+):.*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE))


@pytest.fixture
def run(embedder, scripted, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {"embedder": embedder, "model": scripted(lambda *_: AIMessage("I see."))}

    def execute(role):
        *lines, last = SNIPPETS[role].strip().splitlines()
        exec(compile("\n".join(lines), f"README {role}", "exec"), names)
        names["last"] = eval(last, names)
        return names

    yield execute
    if "store" in names:
        names["store"].close()


def test_there_is_one_for_each_role():
    assert list(SNIPPETS) == ["Knowledge", "Memory", "Examples", "Tools"]


def test_knowledge(run):
    [document] = run("Knowledge")["last"]
    assert document.page_content == "Bees make honey from nectar."
    assert document.metadata["score"] > 0.3


def test_memory(run):
    assert "Biscuit" in run("Memory")["last"]["recalled"][0]["text"]


def test_examples(run):
    said = [message.content for message in run("Examples")["last"]]
    assert said == ["Judge the review.", "The soup was cold.", "bad", "My pizza came cold."]


def test_tools(run):
    assert run("Tools")["last"] == ["get_weather"]
