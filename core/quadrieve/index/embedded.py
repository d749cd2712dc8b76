"""Records that this process owns, however many times it opens them, and how a new generation takes over."""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..embedder import Vectors, ViewLike
from ..errors import StoreError
from .collection import StampedCollection
from .filters import Filter
from .folder import IndexFolder
from .generation import Generation
from .location import close_client, ephemeral_client, folder_client
from .ranking import Candidate, Embed, Query
from .records import Record

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

_OPEN: dict[tuple[int, Path], EmbeddedRecords] = {}
_OPENING = threading.RLock()
_PAGE = 1024
_SAMPLE = 16


class EmbeddedRecords:
    """Records in a folder or in memory, that only this process writes.

    Args:
        folder: The index's folder, owned; None for memory.
        name: The collection's name.
        view: What embeds them.
    """

    def __init__(self, folder: IndexFolder | None, name: str, view: ViewLike) -> None:
        self._folder = folder
        self._name = name
        self._users = 1
        self._version = 0
        self._rebuilding = threading.Lock()
        self._writing = threading.RLock()
        self._turn = threading.RLock()  # taken after the other two
        self._generation = self._open(None if folder is None else folder.generation(), view)

    @classmethod
    def in_memory(cls, name: str, view: ViewLike) -> EmbeddedRecords:
        """Records that end with the last one who holds them."""
        return cls(None, name, view)

    @classmethod
    def in_folder(cls, path: Path, name: str, view: ViewLike) -> EmbeddedRecords:
        """Records in a folder, shared by all who open it in this process.

        Raises:
            StoreError: If another process owns the folder.
            FingerprintError: If another embedder wrote them.
        """
        with _OPENING:
            key = (os.getpid(), path.resolve())
            records = _OPEN.get(key)
            if records is not None:
                records._generation.collection.check(view)
                records._users += 1
                return records
            folder = IndexFolder(path.resolve())
            folder.acquire()
            try:
                _OPEN[key] = cls(folder, name, view)
            except BaseException:
                folder.release()
                raise
            return _OPEN[key]

    @property
    def batch_size(self) -> int:
        """Records that may be written at a time."""
        with self._now() as generation:
            return generation.batch_size

    def check(self, view: ViewLike) -> None:
        """Refuse another embedder than the records were written with."""
        with self._now() as generation:
            generation.collection.check(view)

    @property
    def version(self) -> int:
        """Goes up with every change."""
        return self._version

    def ids(self, filter: Filter | None = None) -> list[str]:
        """The ids of all records, or of those that match."""
        with self._now() as generation:
            return generation.ids(filter)

    def put(self, records: Sequence[Record], hashes: Mapping[str, str], vectors: Vectors, view: ViewLike) -> None:
        """Write records, each as a whole.

        Raises:
            FingerprintError: If their vectors are of another embedder, as after a migration meanwhile.
        """
        with self._writing, self._now() as generation:
            generation.collection.check(view)
            generation.put(records, hashes, vectors)
            self._version += 1

    def hashes(self, ids: Sequence[str] | None = None) -> dict[str, str]:
        """Content hash by id, of those that are there."""
        with self._now() as generation:
            return generation.hashes(ids)

    def get(
        self, ids: Sequence[str] | None = None, filter: Filter | None = None, *, vectors: bool = False
    ) -> list[Record]:
        """Records by id, by filter, or all."""
        with self._now() as generation:
            return generation.get(ids, filter, vectors=vectors)

    def delete(self, ids: Sequence[str]) -> None:
        """Take records away."""
        with self._writing, self._now() as generation:
            generation.delete(ids)
            self._version += 1

    def count(self, filter: Filter | None = None) -> int:
        """How many records there are, in all or of those that match."""
        with self._now() as generation:
            return generation.count(filter)

    def rank(self, query: Query) -> list[Candidate]:
        """The candidates for a query, best first; none is missed.

        Raises:
            FingerprintError: If its vector is of another embedder, as after a migration meanwhile.
        """
        with self._now() as generation:
            generation.collection.check(query.view)
            return generation.rank(query)

    def rebuild(self, view: ViewLike, embed: Embed | None, progress: Callable[[int, int], None]) -> bool:
        """Copy what is alive into a new generation, check it, and let it take over.

        Searches are answered by the old generation until then; writes wait for the last part of the copy only.
        One rebuild waits for another.

        Args:
            view: What will embed them.
            embed: Makes the vectors of records anew; None keeps those they have.
            progress: Called with how many of how many are done.

        Returns:
            Whether nothing else is in the new generation's bytes: what was deleted or changed since the copy
            began, before it was resumed maybe, needs another rebuild.

        Raises:
            StoreError: If the copy is not what it should be; the old generation stays.
        """
        with self._rebuilding:
            if embed is None:
                self.check(view)
            place = None if self._folder is None else self._folder.next_generation(_target(view, embed))
            fresh = self._open(place, view)
            try:
                self._drop_outdated(fresh)
                self._copy(fresh, embed, progress)
                with self._writing:
                    self._drop_outdated(fresh)
                    self._copy(fresh, embed, progress)
                    _verify(self._generation, fresh, embed)
                    self._switch(fresh)
            except BaseException:
                if fresh is not self._generation:
                    fresh.close()
                raise
            return fresh.pristine

    def close(self) -> None:
        """Let go; the last one who does closes the files and gives the folder up."""
        with _OPENING:
            self._users -= 1
            if self._users == 0:
                self._generation.close()
                if self._folder is not None:
                    _OPEN.pop((os.getpid(), self._folder.path), None)
                    self._folder.release()

    def _open(self, place: Path | None, view: ViewLike) -> Generation:
        client: ClientAPI
        client, name = ephemeral_client(self._name) if place is None else (folder_client(place), self._name)
        try:
            return Generation(StampedCollection(client, name, view), place, view.dim)
        except BaseException:
            if place is not None:
                close_client(client)
            raise

    @contextmanager
    def _now(self) -> Iterator[Generation]:
        """The generation that counts, which stays so and open meanwhile."""
        with self._turn:
            yield self._generation

    def _drop_outdated(self, fresh: Generation) -> None:
        """Take from a new generation what has been deleted or changed since it was copied there."""
        now = self.hashes()
        fresh.delete([id for id, hash in fresh.hashes().items() if now.get(id) != hash])

    def _copy(self, fresh: Generation, embed: Embed | None, progress: Callable[[int, int], None]) -> None:
        now, done = self.hashes(), fresh.hashes()
        missing = [id for id in now if id not in done]
        for start in range(0, len(missing), _PAGE):
            with self._now() as generation:
                records = generation.get(missing[start : start + _PAGE], vectors=True)
                hashes = generation.hashes([record.id for record in records])
            if records:
                vectors = np.stack([record.vector for record in records if record.vector is not None])
                fresh.put(records, hashes, vectors if embed is None else embed(records))
            progress(len(now) - len(missing) + start + len(records), len(now))

    def _switch(self, fresh: Generation) -> None:
        with self._now() as old:
            if self._folder is not None:
                fresh.settle()
                self._folder.switch()
            self._generation = fresh
            self._version += 1
            old.close()
        if self._folder is not None:
            self._folder.sweep()


def _target(view: ViewLike, embed: Embed | None) -> str:
    return view.fingerprint if embed is not None else "copy"


def _verify(old: Generation, fresh: Generation, embed: Embed | None) -> None:
    """Check counts, and a sample of vectors spread over the whole."""
    if old.hashes() != fresh.hashes() or fresh.collection.count() != old.count():
        raise StoreError(
            f"The new generation has {fresh.collection.count()} records that are not the {old.count()} of the old one, "
            "which stays; rebuild again."
        )
    ids = sorted(old.hashes())
    sample = ids[:: max(1, len(ids) // _SAMPLE)]
    if not sample:
        return
    written = {record.id: record.vector for record in fresh.collection.get(sample, vectors=True)}
    expected = old.get(sample, vectors=True)
    vectors = np.stack([r.vector for r in expected if r.vector is not None]) if embed is None else embed(expected)
    for record, vector in zip(expected, vectors, strict=True):
        found = written.get(record.id)
        if found is None or float(found @ vector) < 0.99:
            raise StoreError(f"The vector of {record.id!r} did not arrive in the new generation; the old one stays.")


def _close_all() -> None:
    for (pid, _), records in list(_OPEN.items()):
        if pid == os.getpid():  # a forked child must not close its parent's
            records._users = 1
            records.close()


atexit.register(_close_all)
