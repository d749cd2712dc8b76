"""Tools: what the language model may call, found by what the user asks for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Self

import numpy as np

from .embedder import EmbedderLike, OnLong, check_text
from .errors import InputError
from .examples import CountTokens, estimate_tokens
from .index import Index, Record
from .index.location import Location
from .index.records import canonical_json, content_id
from .role_store import RoleStore
from .roles import Role
from .turns import TurnLike, query_text

#: The permissions that the caller holds, or a function that says whether a tool is allowed.
Allowed = Collection[str] | Callable[["Tool"], bool]

_HISTORY = 2  # earlier user turns that a request is read with: "and the same for Paris?"


@dataclass(frozen=True)
class Tool:
    """Something to call.

    Attributes:
        name: What the call names; unique within a toolbox.
        description: What it does.
        parameters: JSON schema of its arguments.
        usage: Requests that it answers, in a user's words; they pull its vector towards such requests.
        requires: Names of tools that must be at hand with it.
        permissions: What a caller must hold to be offered it.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    usage: Sequence[str] = ()
    requires: Sequence[str] = ()
    permissions: Collection[str] = frozenset()

    def __post_init__(self) -> None:
        if not check_text(self.name, "A tool's name"):
            raise InputError("A tool's name is empty.")
        check_text(self.description, f"The description of {self.name!r}")
        if not isinstance(self.parameters, Mapping):
            raise InputError(
                f"The parameters of {self.name!r} are {type(self.parameters).__name__}, expected a JSON schema."
            )
        for what in ("usage", "requires", "permissions"):
            values = getattr(self, what)
            if isinstance(values, str) or not all(isinstance(value, str) for value in values):
                raise InputError(f"{what} of {self.name!r} is {values!r}, expected a list of strings.")
        object.__setattr__(self, "usage", tuple(self.usage))
        object.__setattr__(self, "requires", tuple(self.requires))
        object.__setattr__(self, "permissions", frozenset(self.permissions))

    def describe(self) -> str:
        """Name, description and parameters as one text: what is encoded, and what a budget counts.

        Example:
            >>> schema = {"properties": {"city": {"type": "string", "description": "Where."}}}
            >>> Tool("getWeather", "Weather now.", schema).describe()
            'get weather (getWeather): Weather now. Parameters: city (string): Where.'
        """
        words = " ".join(re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+|\d+", self.name)).lower()
        name = self.name if words in ("", self.name.lower()) else f"{words} ({self.name})"
        properties = self.parameters.get("properties")
        parts = [
            f"{key} ({value.get('type', 'any')}): {value.get('description', '')}".rstrip(": ")
            for key, value in (properties.items() if isinstance(properties, Mapping) else ())
            if isinstance(value, Mapping)
        ]
        text = f"{name}: {self.description}".rstrip(": ")
        return f"{text} Parameters: {'; '.join(parts)}" if parts else text


@dataclass(frozen=True)
class ToolHit:
    """A tool that is offered.

    Attributes:
        tool: The tool.
        score: Cosine similarity with the request in [-1, 1]; 0 where it was not ranked.
        why: Which ranker found it at which rank, `{"always": True}`, or `{"required_by": name}`.
    """

    tool: Tool
    score: float
    why: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The tool's name."""
        return self.tool.name


class Toolbox(RoleStore):
    """Tools, found by the requests that they answer.

    Example:
        >>> from quadrieve import Embedder, Tool, Toolbox
        >>> box = Toolbox.open(None, embedder=Embedder.load())
        >>> tools = [Tool("get_weather", "Current weather of a city."), Tool("send_mail", "Send an e-mail.")]
        >>> _ = box.register(tools)
        >>> box.select("Do I need an umbrella in Oslo?", k=1)[0].name
        'get_weather'
    """

    role: ClassVar[Role] = Role.TOOL
    on_long: ClassVar[OnLong] = "split"

    def __init__(self, index: Index, count_tokens: CountTokens | None = None) -> None:
        super().__init__(index)
        self.count_tokens = count_tokens or estimate_tokens

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        embedder: EmbedderLike,
        name: str = "default",
        task: str | None = None,
        on_long: OnLong | None = None,
        count_tokens: CountTokens | None = None,
    ) -> Self:
        """Open a toolbox, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: The embedder that it was made with.
            name: Tells several toolboxes of one location apart.
            task: `tool` (the default), or a registered task of the role tool.
            on_long: What to do with descriptions longer than the model reads; a mean of their parts by default.
            count_tokens: Counts tokens as the reading language model does; None estimates four bytes a token.

        Raises:
            StoreError: If the location holds something else (`FingerprintError`: another embedder's index).
        """
        return cls(cls._open_index(location, embedder, name, task, on_long), count_tokens)

    def register(self, tools: Iterable[Tool], *, progress: bool = False) -> list[str]:
        """Add tools, or replace those of the same name; one that is unchanged is not encoded again.

        Returns:
            The names of the tools that were new or changed.

        Raises:
            InputError: If one is no `Tool`, a name stands for two different ones, or there is none.
        """
        given = list(tools)
        if not given:
            raise InputError("Expected at least one tool, got an empty list.")
        for tool in given:
            if not isinstance(tool, Tool):
                raise InputError(
                    f"Expected a Tool, got {type(tool).__name__}; build one with Tool(name, description, …)."
                )
        by_name: dict[str, Tool] = {}
        for tool in given:
            if by_name.setdefault(tool.name, tool) != tool:
                raise InputError(f"The name {tool.name!r} stands for two different tools.")
        stored = {record.payload["name"]: record.payload for record in self.index.get(list(map(_id, by_name)))}
        changed = [tool for name, tool in by_name.items() if stored.get(name) != _payload(tool)]
        self.index.write(self._records(changed), progress=progress)
        return [tool.name for tool in changed]

    def unregister(self, names: Sequence[str]) -> int:
        """Take tools away by name; returns how many there were."""
        if isinstance(names, str):
            raise InputError("names is one string, expected a list of names.")
        return self.index.delete([_id(name) for name in names])

    def get(self, names: Sequence[str] | None = None) -> list[Tool]:
        """Tools by name (in that order, those that are there), or all."""
        records = self.index.get(None if names is None else [_id(name) for name in names])
        return [_tool(record.payload) for record in records]

    def select(
        self,
        request_or_turns: str | Sequence[TurnLike],
        k: int = 5,
        always: Sequence[str] = (),
        max_tokens: int | None = None,
        allowed: Allowed | None = None,
    ) -> list[ToolHit]:
        """The tools to offer for a request, best first, those of `always` before them.

        Args:
            request_or_turns: What is asked: a text, or turns, of which the last user turns count.
            k: How many to choose by rank; `always` and required tools come on top.
            always: Names of tools to offer whatever is asked.
            max_tokens: What the descriptions may take together; a ranked tool that does not fit, with what it
                requires, is passed over.
            allowed: The permissions that the caller holds (a tool that needs others is not offered, one that
                needs none is), or a function of the tool; None offers all. Applied before ranking.

        Raises:
            InputError: If a tool of `always` is unknown or not allowed, or those tools alone exceed `max_tokens`.
        """
        request = query_text(request_or_turns, history=_HISTORY)
        permitted = None if allowed is None else {t.name: t for t in self.get() if _is_allowed(t, allowed)}
        chosen: dict[str, ToolHit] = {}
        left = float("inf") if max_tokens is None else max_tokens
        for name in always:
            left -= self._offer(name, chosen, {"always": True}, permitted, 0.0)
        if left < 0:
            raise InputError(
                f"The tools of always={list(always)} take {-left:.0f} tokens more than max_tokens={max_tokens}."
            )
        ids = None if permitted is None else [_id(name) for name in permitted]
        ranked = 0
        for hit in self.index.search(request, k + len(chosen), ids=ids):
            if ranked == k:
                break
            group = dict(chosen)
            name = hit.payload["name"]
            if name in group:
                continue
            try:
                cost = self._offer(name, group, hit.why, permitted, hit.score)
            except InputError:
                continue  # it requires a tool that is not there or not allowed
            if cost <= left:
                chosen, left, ranked = group, left - cost, ranked + 1
        return list(chosen.values())

    def count(self) -> int:
        """How many tools there are."""
        return self.index.count()

    def _offer(
        self,
        name: str,
        chosen: dict[str, ToolHit],
        why: Mapping[str, Any],
        permitted: Mapping[str, Tool] | None,
        score: float,
    ) -> int:
        """Put a tool and what it requires into `chosen`; returns the tokens that they add."""
        if name in chosen:
            return 0
        found = self.get([name])
        if not found or (permitted is not None and name not in permitted):
            reason = "is not allowed" if found else "is not registered"
            raise InputError(f"The tool {name!r} {reason}; register it, or leave it out.")
        chosen[name] = ToolHit(found[0], score, why)
        cost = self.count_tokens(found[0].describe())
        return cost + sum(
            self._offer(other, chosen, {"required_by": name}, permitted, 0.0) for other in found[0].requires
        )

    def _records(self, tools: Sequence[Tool]) -> list[Record]:
        """Records whose vector is the mean of the description's and of the usage requests' (Tool2Vec)."""
        if not tools:
            return []
        vectors = self.index.embed_keys([tool.describe() for tool in tools])
        requests = [request for tool in tools for request in tool.usage]
        if requests:
            asked = iter(self.index.view.embed_queries(requests))
            for i, tool in enumerate(tools):
                if tool.usage:
                    usage = np.mean([next(asked) for _ in tool.usage], axis=0)
                    mixed = vectors[i] + usage / np.linalg.norm(usage)
                    vectors[i] = mixed / np.linalg.norm(mixed)
        return [
            Record(_id(tool.name), tool.describe(), payload=_payload(tool), vector=vector)
            for tool, vector in zip(tools, vectors, strict=True)
        ]


def _id(name: str) -> str:
    return content_id("tool", name)


def _payload(tool: Tool) -> dict[str, Any]:
    payload = {**asdict(tool), "permissions": sorted(tool.permissions)}
    as_stored: dict[str, Any] = json.loads(canonical_json(payload, f"The tool {tool.name!r}"))
    return as_stored


def _tool(payload: Mapping[str, Any]) -> Tool:
    return Tool(**payload)


def _is_allowed(tool: Tool, allowed: Allowed) -> bool:
    return allowed(tool) if callable(allowed) else set(tool.permissions) <= set(allowed)
