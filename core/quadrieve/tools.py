"""Tools: what the language model may call, found by what the user asks for."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np

from .embedder import EmbedderLike, OnLong, Vectors, ViewLike, check_text
from .errors import InputError, StoreError
from .examples import CountTokens, estimate_tokens
from .index import Hit, Index, Record
from .index.filters import Filter, own
from .index.location import Location
from .index.ranking import Embed, Mode
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
        self._cache: tuple[int | None, dict[str, Tool]] | None = None

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
        known = self._tools()
        changed = [
            tool for name, tool in by_name.items() if name not in known or _payload(known[name]) != _payload(tool)
        ]
        self._write([_record(tool) for tool in changed], progress=progress)
        return [tool.name for tool in changed]

    def unregister(self, names: Sequence[str]) -> int:
        """Take tools away by name; returns how many there were."""
        if isinstance(names, str):
            raise InputError("names is one string, expected a list of names.")
        return self.index.delete([_id(name) for name in names])

    def get(self, names: Sequence[str] | None = None) -> list[Tool]:
        """Tools by name (in that order, those that are there), or all."""
        known = self._tools()
        return [known[name] for name in dict.fromkeys(known if names is None else names) if name in known]

    def select(
        self,
        request_or_turns: str | Sequence[TurnLike],
        k: int = 5,
        always: Sequence[str] = (),
        max_tokens: int | None = None,
        allowed: Allowed | None = None,
        *,
        mode: Mode = "hybrid",
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
            mode: How to rank: see `KnowledgeBase.search`.

        Raises:
            InputError: If a tool of `always` is unknown or not allowed, or those tools alone exceed `max_tokens`.
        """
        if max_tokens is not None and max_tokens < 0:
            raise InputError(f"max_tokens must not be negative, got {max_tokens}.")
        request = query_text(request_or_turns, history=_HISTORY)
        offer = _Offer(self._tools(), allowed, self.count_tokens)
        for name in always:
            offer.add(name, {"always": True})
        if max_tokens is not None and offer.tokens > max_tokens:
            raise InputError(
                f"The tools of always={list(always)} take {offer.tokens} tokens, max_tokens is {max_tokens}."
            )
        ranked = 0
        for hit in self._ranked(request, k + len(offer.hits), mode, allowed, offer.tools):
            if ranked == k:
                break
            name = hit.payload["name"]
            group = offer.copy()
            if name in offer.hits or not group.try_add(name, hit.why, hit.score):
                continue
            if max_tokens is None or group.tokens <= max_tokens:
                offer, ranked = group, ranked + 1
        return list(offer.hits.values())

    def lock(self, path: str | os.PathLike[str]) -> None:
        """Write a lock file: every tool's name with the hash of what it is, for `check_lock`."""
        hashes = {name: _tool_hash(tool) for name, tool in sorted(self._tools().items())}
        Path(path).write_text(json.dumps({"format": 1, "tools": hashes}, indent=2) + "\n", encoding="utf-8")

    def check_lock(self, path: str | os.PathLike[str], *, refuse: bool = False) -> Drift:
        """Hold the tools against a lock file: a description that changed unseen may have been poisoned.

        Args:
            path: What `lock` wrote.
            refuse: Raise instead of report.

        Raises:
            StoreError: If a tool was added, removed or changed, and `refuse` is set.
            InputError: If the file is no lock file.
        """
        try:
            locked: dict[str, str] = json.loads(Path(path).read_text(encoding="utf-8"))["tools"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{str(path)!r} is no lock file ({error}); write one with lock().") from error
        now = {name: _tool_hash(tool) for name, tool in self._tools().items()}
        drift = Drift(
            added=sorted(now.keys() - locked.keys()),
            removed=sorted(locked.keys() - now.keys()),
            changed=sorted(name for name in now.keys() & locked.keys() if now[name] != locked[name]),
        )
        if refuse and drift:
            raise StoreError(f"The tools are not those of {str(path)!r}: {drift}.")
        return drift

    def count(self) -> int:
        """How many tools there are."""
        return self.index.count()

    def _ranked(
        self, request: str, n: int, mode: Mode, allowed: Allowed | None, tools: Mapping[str, Tool]
    ) -> Iterator[Hit]:
        """Allowed tools by rank, as many as are asked for; more are fetched only where some did not fit."""
        filter: Filter | None = None
        ids: list[str] | None = None
        if callable(allowed):
            ids = [_id(name) for name, tool in tools.items() if allowed(tool)]
        elif allowed is not None:
            needed = {_permissions(tool): tool.permissions for tool in tools.values()}
            open_to = tuple(key for key, permissions in needed.items() if set(permissions) <= set(allowed))
            if not open_to:
                return
            filter = own("permissions", "$in", open_to)
        seen = 0
        n *= 2  # some are there already as what others require, and to encode the request again is dear
        while True:
            hits = self.index.search(request, n, filter=filter, ids=ids, mode=mode)
            yield from hits[seen:]
            if len(hits) < n:
                return
            seen, n = len(hits), 4 * n

    def _tools(self) -> dict[str, Tool]:
        """All tools by name, read again only when they may have changed."""
        version = self.index.version
        if self._cache is None or version is None or version != self._cache[0]:
            found = (Tool(**record.payload) for record in self.index.scan())
            self._cache = (version, {tool.name: tool for tool in found})
        return self._cache[1]

    def _embedding(self, view: ViewLike) -> Embed:
        return lambda records: _vectors(view, [Tool(**record.payload) for record in records], self.index.encode)

    def _write(self, records: Sequence[Record], *, progress: bool = False) -> list[str]:
        bare = [record for record in records if record.vector is None]
        vectors = iter(self._embedding(self.index.view)(bare) if bare else ())
        complete = [
            record if record.vector is not None else replace(record, vector=next(vectors)) for record in records
        ]
        return self.index.write(complete, progress=progress)


@dataclass(frozen=True)
class Drift:
    """How a toolbox differs from its lock file; false if it does not."""

    added: Sequence[str] = ()
    removed: Sequence[str] = ()
    changed: Sequence[str] = ()

    def __bool__(self) -> bool:
        return bool(self.added or self.removed or self.changed)

    def __str__(self) -> str:
        parts = {"added": self.added, "removed": self.removed, "changed": self.changed}
        return "; ".join(f"{what} {', '.join(names)}" for what, names in parts.items() if names)


class _Offer:
    """Tools that are offered together, each with all it requires."""

    def __init__(self, tools: Mapping[str, Tool], allowed: Allowed | None, count_tokens: CountTokens) -> None:
        self.tools = tools
        self.hits: dict[str, ToolHit] = {}
        self.tokens = 0
        self._allowed = allowed
        self._count_tokens = count_tokens

    def copy(self) -> _Offer:
        other = _Offer(self.tools, self._allowed, self._count_tokens)
        other.hits, other.tokens = dict(self.hits), self.tokens
        return other

    def add(self, name: str, why: Mapping[str, Any], score: float = 0.0) -> None:
        """Offer a tool and what it requires.

        Raises:
            InputError: If one of them is unknown or not allowed.
        """
        if name in self.hits:
            return
        tool = self.tools.get(name)
        if tool is None or not _is_allowed(tool, self._allowed):
            reason = "is not registered" if tool is None else "is not allowed"
            raise InputError(f"The tool {name!r} {reason}; register it, or leave it out.")
        self.hits[name] = ToolHit(tool, score, why)
        self.tokens += self._count_tokens(tool.describe())
        for other in tool.requires:
            self.add(other, {"required_by": name})

    def try_add(self, name: str, why: Mapping[str, Any], score: float) -> bool:
        """Offer a tool unless it is gone, or requires one that is not there or not allowed."""
        try:
            self.add(name, why, score)
        except InputError:
            return False
        return True


def _record(tool: Tool) -> Record:
    return Record(_id(tool.name), tool.describe(), payload=_payload(tool), fields={"permissions": _permissions(tool)})


def _vectors(view: ViewLike, tools: Sequence[Tool], encode: Callable[[ViewLike, Sequence[str]], Vectors]) -> Vectors:
    """The mean of the description's vector and of the usage requests' (Tool2Vec, arXiv 2409.02141), `[n, dim]`."""
    vectors = encode(view, [tool.describe() for tool in tools])
    requests = [request for tool in tools for request in tool.usage]
    if requests:
        asked = iter(view.embed_queries(requests))
        for i, tool in enumerate(tools):
            if tool.usage:
                usage = np.mean([next(asked) for _ in tool.usage], axis=0)
                mixed = vectors[i] + usage / np.linalg.norm(usage)
                vectors[i] = mixed / np.linalg.norm(mixed)
    return vectors


def _permissions(tool: Tool) -> str:
    return canonical_json(sorted(tool.permissions), "The permissions")


def _tool_hash(tool: Tool) -> str:
    return content_id(_payload(tool))


def _id(name: str) -> str:
    return content_id("tool", name)


def _payload(tool: Tool) -> dict[str, Any]:
    payload = {**asdict(tool), "permissions": sorted(tool.permissions)}
    as_stored: dict[str, Any] = json.loads(canonical_json(payload, f"The tool {tool.name!r}"))
    return as_stored


def _is_allowed(tool: Tool, allowed: Allowed | None) -> bool:
    if allowed is None:
        return True
    return allowed(tool) if callable(allowed) else set(tool.permissions) <= set(allowed)
