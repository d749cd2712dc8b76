"""Memory: what was said before, by whom and when, each user's apart from every other's."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

from .embedder import EmbedderLike, OnLong, check_text
from .errors import InputError
from .index import Hit, Index, Record
from .index.filters import Filter, all_of, own, read_filter
from .index.location import Location
from .index.ranking import Mode
from .index.records import Namespace, Scalar, check_metadata, check_namespace, content_id
from .role_store import RoleStore
from .roles import Role
from .turns import TurnLike, exchanges, query_text, read_turns, render

Source = Literal["user", "assistant", "tool", "web"]

#: A point in time: a datetime (naive ones are UTC), seconds since 1970, or ISO 8601 text.
Moment: TypeAlias = "datetime | float | str"

_ALWAYS, _NEVER = -1e18, 1e18
_REMEMBERED_RECALLS = 1000
_OWN = ("at", "source", "expires", "valid_from", "valid_to")


class Memory(RoleStore):
    """One user's past, found by what it means for what is said now.

    Every operation is bound to the namespace that it was opened with; there is no way to reach another's.

    Example:
        >>> from quadrieve import Embedder, Memory
        >>> memory = Memory.open(None, embedder=Embedder.load(), user="ada")
        >>> ids = memory.remember("My dog is called Biscuit.", at="2026-01-05")
        >>> ids = memory.remember([("user", "I moved to Oslo."), ("assistant", "How do you like it?")])
        >>> hit = memory.recall("What is my pet's name?", k=1)[0]
        >>> hit.text, hit.metadata["source"]
        ('My dog is called Biscuit.', 'user')
    """

    role: ClassVar[Role] = Role.MEMORY

    def __init__(self, index: Index, user: str | Namespace) -> None:
        super().__init__(index)
        self.namespace = check_namespace(user)
        self._recalled: dict[str, str] = {}

    @classmethod
    def open(
        cls,
        location: Location,
        *,
        embedder: EmbedderLike,
        user: str | Namespace,
        name: str = "default",
        task: str | None = None,
        on_long: OnLong | None = None,
    ) -> Self:
        """Open a user's memory, or make it where there is none.

        Args:
            location: A folder, `http://host:port`, a chromadb client, or None for memory.
            embedder: The embedder that it was made with.
            user: The namespace: a string, or a tuple of strings such as `("acme", "ada")`; any characters.
            name: Tells several memories of one location apart.
            task: `chat` (the default), `lrlm`, or a registered task of the role memory.
            on_long: What to do with texts longer than the model reads: see `RoleView.embed_keys`.

        Raises:
            StoreError: If the location holds something else (`FingerprintError`: another embedder's index).
        """
        namespace = check_namespace(user)
        return cls(cls._open_index(location, embedder, name, task, on_long), namespace)

    def remember(
        self,
        text_or_turns: str | Sequence[TurnLike],
        at: Moment | None = None,
        ttl: float | None = None,
        valid_from: Moment | None = None,
        valid_to: Moment | None = None,
        source: Source = "user",
        *,
        metadata: Mapping[str, Any] | None = None,
    ) -> list[str]:
        """Store what was said: a text, or turns, which become one record for each exchange.

        What this user's memory holds already, word for word from the same source, is kept with its first time;
        what was just recalled and is said again by another source (an assistant that quotes it) is not stored again.

        Args:
            text_or_turns: A text, or turns as `("user", "…")` or `{"role": "user", "content": "…"}`.
            at: When it was said; None is now.
            ttl: Seconds from now after which it is forgotten.
            valid_from: From when on it holds; None is always.
            valid_to: Until when it holds, that moment excluded; None is for ever.
            source: Where it comes from, which is how far it is to be trusted.
            metadata: Nested JSON of your own.

        Returns:
            The ids, one a text or exchange.

        Raises:
            InputError: If there is no text, a time cannot be read, or a metadata key is one of memory's own.
        """
        if source not in get_args(Source):
            raise InputError(f"Unknown source {source!r}; expected one of {', '.join(get_args(Source))}.")
        if ttl is not None and not (isinstance(ttl, int | float) and 0 < ttl < math.inf):
            raise InputError(f"ttl is a positive number of seconds, got {ttl!r}.")
        own_keys = set(metadata or ()) & set(_OWN)
        if own_keys:
            raise InputError(f"The metadata keys {', '.join(sorted(own_keys))} are memory's own; use the arguments.")
        now = time.time()
        times: dict[str, float] = {"at": now if at is None else read_moment(at, "at")}
        if ttl is not None:
            times["expires"] = now + ttl
        if valid_from is not None:
            times["valid_from"] = read_moment(valid_from, "valid_from")
        if valid_to is not None:
            times["valid_to"] = read_moment(valid_to, "valid_to")
        entry = {**check_metadata(metadata), **times, "source": source}
        ids: list[str] = []
        records: dict[str, Record] = {}
        for text in _texts(text_or_turns):
            record = self._record(text, entry)
            quoted = self._recalled.get(_plain(text), record.id)
            ids.append(quoted)
            if quoted == record.id:
                records[record.id] = record
        known = {record.id: record for record in self.index.get(list(records), namespace=self.namespace)}
        self.index.write([_merge(known.get(id), record, now) for id, record in records.items()])
        return ids

    def recall(
        self,
        query_or_turns: str | Sequence[TurnLike],
        k: int = 5,
        as_of: Moment | None = None,
        min_score: float | None = None,
        where: Mapping[str, Any] | None = None,
        *,
        mode: Mode = "hybrid",
        diversity: float | None = None,
        recency: float = 0.0,
        half_life: float = 30 * 86400.0,
    ) -> list[Hit]:
        """What this user said before that helps with what is said now, best first.

        Args:
            query_or_turns: What is said now: a text, or turns, of which the last user turn counts.
            k: How many at most.
            as_of: What was known and held at that time; None is what holds now.
            min_score: Only memories with at least this cosine similarity.
            where: Filter on metadata, `at` (seconds since 1970) and `source` among it.
            mode: How to rank: see `KnowledgeBase.search`.
            diversity: From 0 to 1: how much a hit's likeness to those before it counts against it (MMR).
            recency: From 0 to 1: how much of the rank is decided by age instead of by meaning; `hit.why` says
                under `recency` what age gave each.
            half_life: Seconds in which what age gives is halved.

        Returns:
            Hits whose metadata has `at`, `source` and what else was given.
        """
        if not 0 <= recency <= 1 or not half_life > 0:
            raise InputError(f"recency is from 0 to 1 and half_life above 0, got {recency!r} and {half_life!r}.")
        now = time.time()
        hits = self.index.search(
            query_text(query_or_turns),
            k if not recency else max(4 * k, 20),
            namespace=self.namespace,
            filter=all_of(_alive(now, as_of), read_filter(where)),
            mode=mode,
            min_score=min_score,
            diversity=diversity,
        )
        if recency:
            until = now if as_of is None else read_moment(as_of, "as_of")
            hits = _by_age(hits, until, recency, half_life)[:k]
        for hit in hits:
            self._recalled[_plain(hit.text)] = hit.id
        while len(self._recalled) > _REMEMBERED_RECALLS:
            del self._recalled[next(iter(self._recalled))]
        return hits

    def forget(
        self,
        ids: Sequence[str] | None = None,
        before: Moment | None = None,
        everything: bool = False,
        *,
        erase: bool = False,
    ) -> int:
        """Delete memories of this user; returns how many there were.

        They are recalled no more from then on; their bytes leave the disk with `rebuild`.

        Args:
            ids: These memories; those of another user are left alone.
            before: Those said before this time.
            everything: All of this user's.
            erase: Rebuild at once.

        Raises:
            InputError: If nothing says what to forget.
        """
        if isinstance(ids, str):
            raise InputError("ids is one string, expected a list of ids.")
        if ids is None and before is None and not everything:
            raise InputError("Nothing says what to forget; pass ids=[…], before=… or everything=True.")
        filter = None if before is None else own("at", "$lt", read_moment(before, "before"))
        return self._delete(ids, self.namespace, filter, erase)

    def sweep(self) -> int:
        """Delete this user's memories whose time to live is over; returns how many there were."""
        return self.index.delete(namespace=self.namespace, filter=own("expires", "$lte", time.time()))

    def count(self) -> int:
        """How many memories of this user are alive."""
        return self.index.count(namespace=self.namespace, filter=_alive(time.time(), None))

    def _namespace(self) -> Namespace:
        return self.namespace

    def _adopt(self, record: Record) -> Record:
        """A memory of an export, whosever it was, as this user's."""
        id = content_id(self.namespace, record.text, record.metadata.get("source"))
        return replace(record, id=id, namespace=self.namespace)

    def _record(self, text: str, entry: Mapping[str, Any]) -> Record:
        fields: dict[str, Scalar] = {
            "at": entry["at"],
            "expires": entry.get("expires", _NEVER),
            "valid_from": entry.get("valid_from", _ALWAYS),
            "valid_to": entry.get("valid_to", _NEVER),
        }
        id = content_id(self.namespace, text, entry["source"])
        return Record(id, text, entry, fields=fields, namespace=self.namespace)


def read_moment(moment: Moment, name: str) -> float:
    """A point in time as seconds since 1970.

    Example:
        >>> read_moment("1970-01-02", "at")
        86400.0

    Raises:
        InputError: If it is no time.
    """
    if isinstance(moment, str):
        try:
            moment = datetime.fromisoformat(moment)
        except ValueError:
            raise InputError(f"{name} is {moment!r}, expected ISO 8601 such as '2026-03-02T18:04:00Z'.") from None
    if isinstance(moment, datetime):
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
    if isinstance(moment, bool) or not isinstance(moment, int | float) or not math.isfinite(moment):
        raise InputError(f"{name} is {moment!r}, expected a datetime, seconds since 1970 or ISO 8601 text.")
    return float(moment)


def _texts(text_or_turns: str | Sequence[TurnLike]) -> list[str]:
    if isinstance(text_or_turns, str):
        return [check_text(text_or_turns, "The memory")]
    return [render(exchange) for exchange in exchanges(read_turns(text_or_turns))]


def _merge(known: Record | None, new: Record, now: float) -> Record:
    """A repeated memory keeps its first time, and lives as long as the longer of the two."""
    if known is None or float(known.fields["expires"]) <= now:
        return new
    metadata = {**new.metadata, "at": known.metadata["at"]}
    expires = max(float(known.fields["expires"]), float(new.fields["expires"]))
    metadata.pop("expires", None)
    if expires != _NEVER:
        metadata["expires"] = expires
    fields = {**new.fields, "at": known.fields["at"], "expires": expires}
    return Record(new.id, new.text, metadata, fields=fields, namespace=new.namespace)


def _by_age(hits: Sequence[Hit], until: float, recency: float, half_life: float) -> list[Hit]:
    aged: list[tuple[float, Hit]] = []
    for hit in hits:
        share = recency * 0.5 ** (max(0.0, until - float(hit.metadata["at"])) / half_life)
        rank = (1 - recency) * hit.score + share
        aged.append((rank, replace(hit, why={**hit.why, "recency": round(share, 4)})))
    return [hit for _, hit in sorted(aged, key=lambda pair: -pair[0])]


def _plain(text: str) -> str:
    """A text without what tells two quotations of it apart."""
    return " ".join(text.casefold().split())


def _alive(now: float, as_of: Moment | None) -> Filter | None:
    moment = now if as_of is None else read_moment(as_of, "as_of")
    said = None if as_of is None else own("at", "$lte", moment)
    return all_of(own("expires", "$gt", now), own("valid_from", "$lte", moment), own("valid_to", "$gt", moment), said)
