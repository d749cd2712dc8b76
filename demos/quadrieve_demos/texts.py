"""The demo's own texts: an invented island town, one resident's past chats, its habits, and an assistant's tools."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from quadrieve import Example, Tool


def read(name: str) -> list[dict[str, Any]]:
    """The rows of one of the JSON-lines files in `texts/`."""
    lines = (files(__package__) / "texts" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def tools() -> list[Tool]:
    """The assistant's tools."""
    return [Tool(**{key: value for key, value in row.items() if key != "group"}) for row in read("tools")]


def examples() -> list[Example]:
    """Cases that the town's people solved before."""
    return [Example(row["input"], row["output"], row["task"]) for row in read("examples")]
