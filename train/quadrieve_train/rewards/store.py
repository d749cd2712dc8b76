"""Scores that a language model gave, kept so that nothing is ever scored twice."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quadrieve.errors import StoreError

from ..rows import content_hash

if TYPE_CHECKING:
    from datasets import Dataset

_SCHEMA = """
CREATE TABLE IF NOT EXISTS scores (
    key TEXT PRIMARY KEY, lm TEXT, task TEXT, query TEXT, candidate TEXT, outputs TEXT, scores TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS samples (key TEXT PRIMARY KEY, outputs TEXT) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS claims (key TEXT PRIMARY KEY, host TEXT, process INTEGER, until REAL) WITHOUT ROWID;
"""
_LEASE = 600.0  # seconds after which a claim of another machine counts as abandoned


@dataclass(frozen=True, slots=True)
class Scored:
    """What a language model made of outputs behind one prompt; `candidate` is None where there was none.

    Its key is the content of all that decides the scores, `prompt` included.
    """

    lm: str
    task: str
    query: str
    candidate: str | None
    prompt: str
    outputs: tuple[str, ...]
    scores: tuple[float, ...] = ()

    @property
    def key(self) -> str:
        """Hash of language model, prompt and outputs."""
        return content_hash(self.lm, self.prompt, self.outputs)


class RewardStore:
    """A folder with an SQLite file of scores and sampled outputs, keyed by content.

    Any number of processes of one machine may read and write. A row is worked on by the process that claimed it; the
    claims of a process that is gone are free again. What is written is on disk when `put` returns.

    Example:
        >>> import tempfile
        >>> with RewardStore(tempfile.mkdtemp()) as store:
        ...     scored = Scored("lm", "qa", "Who?", None, "Q: Who? A:", (" Ada", " Bob"), (-1.0, -2.0))
        ...     store.put([scored])
        ...     store.get([scored.key])[scored.key]
        (-1.0, -2.0)
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        self._lock = threading.RLock()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._database = sqlite3.connect(self.folder / "rewards.sqlite3", timeout=60.0, check_same_thread=False)
            with self._transaction() as database:
                for statement in _SCHEMA.split(";"):
                    database.execute(statement)
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"The reward store {str(self.folder)!r} cannot be opened: {error}.") from error

    def __enter__(self) -> RewardStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __len__(self) -> int:
        return int(self._select("SELECT count(*) FROM scores")[0][0])

    def close(self) -> None:
        """Close the file; what was claimed here and not released is free for others."""
        with self._transaction() as database:
            database.execute("DELETE FROM claims WHERE host = ? AND process = ?", (socket.gethostname(), os.getpid()))
        self._database.close()

    def get(self, keys: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """Scores by key, of the keys that have been scored."""
        found: dict[str, tuple[float, ...]] = {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ", ".join("?" * len(part))
            query = f"SELECT key, scores FROM scores WHERE key IN ({marks})"  # noqa: S608 - only question marks
            found |= {key: tuple(json.loads(scores)) for key, scores in self._select(query, part)}
        return found

    def put(self, scored: Iterable[Scored]) -> None:
        """Keep scores; what is there already stays."""
        rows = [
            (s.key, s.lm, s.task, s.query, s.candidate, json.dumps(s.outputs), json.dumps(s.scores)) for s in scored
        ]
        with self._transaction() as database:
            database.executemany("INSERT OR IGNORE INTO scores VALUES (?, ?, ?, ?, ?, ?, ?)", rows)

    def samples(self, key: str) -> list[str] | None:
        """Outputs kept under a key, or None."""
        found = self._select("SELECT outputs FROM samples WHERE key = ?", (key,))
        return list(json.loads(found[0][0])) if found else None

    def put_samples(self, key: str, outputs: Sequence[str]) -> list[str]:
        """Keep outputs under a key and return what is kept there: the first ones win, for every process."""
        with self._transaction() as database:
            database.execute("INSERT OR IGNORE INTO samples VALUES (?, ?)", (key, json.dumps(list(outputs))))
        return self.samples(key) or []

    def claim(self, key: str) -> bool:
        """Take a piece of work for this process; False where a living process has it."""
        here, now = (socket.gethostname(), os.getpid()), time.time()
        with self._transaction() as database:
            held = database.execute("SELECT host, process, until FROM claims WHERE key = ?", (key,)).fetchone()
            if held is not None and held[:2] != here and _alive(held[0], held[1], held[2], now):
                return False
            database.execute("INSERT OR REPLACE INTO claims VALUES (?, ?, ?, ?)", (key, *here, now + _LEASE))
        return True

    def release(self, key: str) -> None:
        """Give a piece of work back, done or not."""
        with self._transaction() as database:
            database.execute("DELETE FROM claims WHERE key = ?", (key,))

    def dataset(self) -> Dataset:
        """All scores as a `datasets.Dataset`: `lm task query candidate outputs scores rank`.

        `rank` is that of the first output, the desired one; `candidate` is None in rows without one.
        """
        from datasets import Dataset, Features, List, Value

        from .reward import rank_of_first

        text, number = Value("string"), Value("float64")
        types: Mapping[str, Any] = dict.fromkeys(("lm", "task", "query", "candidate"), text)
        columns = "SELECT lm, task, query, candidate, outputs, scores FROM scores ORDER BY key"
        records = []
        for lm, task, query, candidate, outputs, scores in self._select(columns):
            values = json.loads(scores)
            records.append(
                {
                    "lm": lm,
                    "task": task,
                    "query": query,
                    "candidate": candidate,
                    "outputs": json.loads(outputs),
                    "scores": values,
                    "rank": rank_of_first(values),
                }
            )
        return Dataset.from_list(
            records, features=Features({**types, "outputs": List(text), "scores": List(number), "rank": number})
        )

    def _select(self, query: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._database.execute(query, tuple(values)).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One writer at a time, over all threads and processes; all or nothing."""
        try:
            with self._lock, self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield self._database
        except sqlite3.OperationalError as error:  # a full disk, or one that cannot be written
            raise StoreError(f"The reward store {str(self.folder)!r} cannot be written: {error}.") from error


def _alive(host: str, process: int, until: float, now: float) -> bool:
    if host != socket.gethostname():
        return now < until
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
