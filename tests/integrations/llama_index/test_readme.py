"""Each snippet of the package's README runs as it stands, and does what is said of it."""

import ast
import inspect
import re
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integrations.llama_index.scripted import ScriptedLLM

import llama_index_quadrieve
from quadrieve import Embedder

README = (Path(llama_index_quadrieve.__file__).parent / "README.md").read_text(encoding="utf-8")
SNIPPETS = dict(re.findall(r"^## (\w+):.*?```python\n(.*?)```", README, re.DOTALL | re.MULTILINE))

Run = Callable[[str], Awaitable[dict[str, Any]]]


@pytest.fixture
def run(embedder: Embedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"embedder": embedder, "llm": ScriptedLLM(script=lambda *_: "I see.")}

    async def execute(role: str) -> dict[str, Any]:
        *lines, last = SNIPPETS[role].strip().splitlines()
        code = compile("\n".join(lines), f"README {role}", "exec", ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        done = eval(code, names)
        if inspect.isawaitable(done):
            await done
        names["last"] = eval(last, names)
        return names

    yield execute
    for opened in names.keys() & {"kb", "store", "bank", "box"}:
        names[opened].close()


def test_there_is_one_for_each_role() -> None:
    assert list(SNIPPETS) == ["Knowledge", "Memory", "Examples", "Tools"]


async def test_knowledge(run: Run) -> None:
    assert (await run("Knowledge"))["last"] == "Bees make honey from nectar."


async def test_memory(run: Run) -> None:
    names = await run("Memory")
    prompt = names["llm"].prompts[-1]
    assert "User: My dog is called Biscuit.\\nAssistant: I see." in str(prompt[0].content)
    assert names["last"] == 1


async def test_examples(run: Run) -> None:
    expected = "Input: The soup was cold.\nOutput: bad\n\nInput: My pizza came cold.\nOutput:"
    assert (await run("Examples"))["last"] == expected


async def test_tools(run: Run) -> None:
    names = await run("Tools")
    assert names["last"] == ["send_mail", "find_contact"]
    assert str(await names["agent"].run(user_msg="Is it raining?")) == "I see."
