"""A small language model's hand is led, so that it can call tools at all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from .reader import Reader

_FILLED = (
    'Request: When is the train from Bern to Rome?\nDeparture city: "Bern"\n\n'
    'Request: Play something by Ella Smith.\nArtist: "Ella Smith"\n\n'
)


class Call(NamedTuple):
    """A tool's name, and its arguments."""

    name: str
    arguments: dict[str, str]


def guided_call(reader: Reader, request: str, tools: Sequence[Mapping[str, Any]]) -> Call:
    """The call that a model makes for a request.

    A model of 135 million parameters writes no valid call by itself. The tool that it calls is the one whose
    description makes it find the request most likely, and it writes each required argument itself, after two filled
    ones.

    Args:
        reader: The model.
        request: What is asked.
        tools: What it is offered, each with its `name`, `description` and the JSON schema of its `parameters`.
    """

    def fit(tool: Mapping[str, Any]) -> float:
        prompt = f"Function {tool['name']}: {tool['description']}\nRequest:"
        return reader.log_likelihood(prompt, f" {request}")

    tool = max(tools, key=fit)
    schema = tool.get("parameters", {})
    arguments: dict[str, str] = {}
    for name in schema.get("required", []):
        described = schema["properties"][name].get("description", name)
        prompt = f'{_FILLED}Request: {request}\n{described}: "'
        arguments[name] = reader.complete(prompt, max_tokens=16, stop='"')
    return Call(tool["name"], arguments)
