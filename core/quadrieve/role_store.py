"""What the four roles have in common: they open an index, and close it."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from itertools import islice
from types import TracebackType
from typing import Any, ClassVar, Self

from .embedder import EmbedderLike, OnLong, ViewLike
from .errors import InputError
from .index import Index, Record
from .index.filters import Filter, read_filter
from .index.location import Location
from .index.ranking import Embed
from .index.records import Namespace
from .index.transfer import read_lines, write_lines
from .roles import Role, Task, find_task

_BATCH = 1024  # records that are imported together


class RoleStore:
    """An index in one role. Use one of its four subclasses."""

    role: ClassVar[Role]
    on_long: ClassVar[OnLong] = "warn"

    def __init__(self, index: Index) -> None:
        self.index = index

    @classmethod
    def _open_index(
        cls, location: Location, embedder: EmbedderLike, name: str, task: str | None, on_long: OnLong | None
    ) -> Index:
        if not isinstance(embedder, EmbedderLike):
            raise InputError(
                f"embedder is {type(embedder).__name__}; expected Embedder.load(…) or anything with view(task)."
            )
        chosen = find_task(task or cls.role)
        if chosen.role is not cls.role:
            raise InputError(
                f"{cls.__name__} takes a task of the role {cls.role.value!r}, "
                f"{chosen.name!r} is of {chosen.role.value!r}."
            )
        view = embedder.view(chosen.name)
        return Index.open(location, view=view, role=cls.role, name=name, on_long=on_long or cls.on_long)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; closing twice is fine."""
        self.index.close()

    def rebuild(self, embedder: EmbedderLike | None = None, *, progress: bool = False) -> None:
        """Erase what was deleted from the disk, or move to another embedder.

        The live records are copied to a new place, the copy is checked and takes over from one moment to the next.
        With the same embedder nothing of a deleted record is left in any byte of the folder; with another one every
        text is encoded anew, and a run that was killed goes on when it is called again. Searches are answered
        meanwhile. What a Chroma server cannot promise is said at `ServedRecords.rebuild`.

        Args:
            embedder: What embeds from now on; None keeps the one there is.
            progress: Show a progress bar on stderr.

        Raises:
            StoreError: If the copy is not what it should be; nothing has changed then.
        """
        view = None if embedder is None else embedder.view(self._task())
        embed = None if view is None else self._embedding(view)
        self.index.rebuild(view, embed=embed, progress=progress)

    def export(self, path: str | os.PathLike[str], *, vectors: bool = False) -> int:
        """Write all records as JSON lines with `id`, `text` and `metadata`; returns how many there were.

        Args:
            path: The file; it is replaced when all is written.
            vectors: Also write the vectors, so that an import by the same embedder encodes nothing.
        """
        records = self.index.scan(namespace=self._namespace(), vectors=vectors)
        return write_lines(path, records, self.index.view.fingerprint)

    @classmethod
    def load(cls, path: str | os.PathLike[str], location: Location = None, **options: Any) -> Self:
        """Open a store and add the records of an export to it.

        Args:
            path: What `export` wrote.
            location: Where the store lies; None for memory.
            options: What `open` takes: `embedder` at least.
        """
        opener: Any = cls
        store: Self = opener.open(location, **options)
        store.restore(path)
        return store

    def restore(self, path: str | os.PathLike[str], *, progress: bool = False) -> int:
        """Add the records of an export, of this or another embedder; returns how many there were.

        Vectors of another embedder are not used: those texts are encoded anew.

        Raises:
            InputError: If a line is no record; what came before it is stored.
        """
        lines = read_lines(path, self.index.view.fingerprint)
        count = 0
        while some := [self._adopt(record) for record in islice(lines, _BATCH)]:
            self._write(some, progress=progress)
            count += len(some)
        return count

    def _task(self) -> str:
        task = getattr(self.index.view, "task", None)
        return task.name if isinstance(task, Task) else find_task(self.role).name

    def _namespace(self) -> Namespace | None:
        return None

    def _adopt(self, record: Record) -> Record:
        """A record of an export as one of this store."""
        return record

    def _write(self, records: Sequence[Record], *, progress: bool = False) -> list[str]:
        return self.index.write(records, progress=progress)

    def _embedding(self, view: ViewLike) -> Embed | None:
        """How a view makes the vectors of this role's records; None encodes their texts."""
        del view
        return None

    def _delete(
        self, ids: Sequence[str] | None, namespace: Namespace | None, filter: Filter | None, erase: bool
    ) -> int:
        deleted = self.index.delete(ids, namespace=namespace, filter=filter)
        if erase:
            self.index.rebuild()
        return deleted


class FilteredStore(RoleStore):
    """A role whose records are counted and deleted by a filter on their metadata."""

    def delete(
        self, ids: Sequence[str] | None = None, where: Mapping[str, Any] | None = None, *, erase: bool = False
    ) -> int:
        """Delete by id, by filter or both; returns how many there were.

        What is deleted is found no more from then on; its bytes leave the disk with `rebuild`.

        Args:
            ids: These records.
            where: Those that match this filter on metadata.
            erase: Rebuild at once.

        Raises:
            InputError: If nothing says what to delete.
        """
        if isinstance(ids, str):
            raise InputError("ids is one string, expected a list of ids.")
        filter = read_filter(where)
        if ids is None and filter is None:
            raise InputError("Nothing says what to delete; pass ids=[…] or where={…}.")
        return self._delete(ids, None, filter, erase)

    def count(self, where: Mapping[str, Any] | None = None) -> int:
        """How many records there are, in all or of those that match."""
        return self.index.count(filter=read_filter(where))


def per_text(values: Sequence[Any] | None, n: int, name: str) -> Sequence[Any]:
    """One value for each of n texts; None gives n times None.

    Raises:
        InputError: If there are more or fewer.
    """
    if values is None:
        return [None] * n
    if isinstance(values, str | Mapping) or len(values) != n:
        given = len(values) if not isinstance(values, str | Mapping) else f"one {type(values).__name__}"
        raise InputError(f"{name} must hold one entry for each of the {n} texts, got {given}.")
    return values
