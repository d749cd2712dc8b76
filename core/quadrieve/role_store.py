"""What the four roles have in common: they open an index, and close it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, ClassVar, Self

from .embedder import EmbedderLike, OnLong
from .errors import InputError
from .index import Index
from .index.filters import read_filter
from .index.location import Location
from .roles import Role, find_task


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


def check_delete(ids: Sequence[str] | None, where: Mapping[str, Any] | None) -> None:
    """Refuse a deletion that names nothing.

    Raises:
        InputError: If neither ids nor a filter is given, or `ids` is one string.
    """
    if isinstance(ids, str):
        raise InputError("ids is one string, expected a list of ids.")
    if ids is None and read_filter(where) is None:
        raise InputError("Nothing says what to delete; pass ids=[…] or where={…}.")


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
