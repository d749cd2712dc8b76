"""Where an index lies: a folder, a Chroma server, a client of the caller's, or memory."""

from __future__ import annotations

import json
import os
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import urlsplit

from ..errors import InputError, ServerError, StoreError
from ..roles import Role
from .folder import is_staged, write_whole

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

#: A folder, `http://host:port`, a chromadb client, or None for memory.
Location: TypeAlias = "str | os.PathLike[str] | ClientAPI | None"

MARKER = "quadrieve.json"
FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}(?<![._-])")


def collection_name(role: Role, name: str) -> str:
    """The name of a role's collection, the same in a folder and on a server.

    Raises:
        InputError: If the name has other characters than a Chroma collection's may have.
    """
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise InputError(
            f"An index's name has 1 to 100 letters, digits, '.', '_' and '-', and begins and ends with a letter "
            f"or digit; got {name!r}."
        )
    return f"{role.value}.{name}"


def as_folder(location: Location) -> Path | None:
    """The folder that a location names, checked to be a store or to become one; None if it is no folder.

    Raises:
        StoreError: If it holds something else.
    """
    if not isinstance(location, str | os.PathLike) or (isinstance(location, str) and "://" in location):
        return None
    root = Path(location).expanduser()
    check_store(root)
    root.mkdir(parents=True, exist_ok=True)
    marker = root / MARKER
    if not marker.exists():
        write_whole(marker, json.dumps({"format": FORMAT}) + "\n")
    return root


def connect(location: Location) -> ClientAPI:
    """The client of a server, or the caller's own.

    Raises:
        ServerError: If no server answers.
        InputError: If the location is none of the four kinds.
    """
    if isinstance(location, str):
        return _server(location)
    if hasattr(location, "get_or_create_collection"):
        return location  # type: ignore[return-value]  # checked by its shape: chromadb has clients of many types
    raise InputError(
        f"A location is a folder, 'http://host:port', a chromadb client or None, got {type(location).__name__}."
    )


def ephemeral_client(collection: str) -> tuple[ClientAPI, str]:
    """A client for memory, and what to call the collection there."""
    import chromadb

    # All in-memory clients of a process share one database: a name of its own keeps stores apart.
    # It must have chromadb's own settings, or a client that the user makes in the same process is refused.
    return chromadb.EphemeralClient(), f"{collection}.{uuid.uuid4().hex}"


def folder_client(folder: Path) -> ClientAPI:
    """A client for a folder that this process owns.

    Raises:
        StoreError: If Chroma cannot open it.
    """
    import chromadb

    try:
        return chromadb.PersistentClient(folder, settings=_settings())
    except Exception as error:
        raise StoreError(f"{str(folder)!r} cannot be opened as a Chroma database: {error}.") from error


def _settings() -> Any:
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False)


def _server(url: str) -> ClientAPI:
    import chromadb

    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise InputError(f"A server's location looks like 'http://host:8000', got {url!r}.")
    ssl = parts.scheme == "https"
    try:
        port = parts.port or (443 if ssl else 8000)
        return chromadb.HttpClient(parts.hostname, port, ssl=ssl, settings=_settings())
    except Exception as error:  # chromadb raises ValueError, httpx errors and its own
        raise ServerError(
            f"No Chroma server answers at {url} ({type(error).__name__}); start one with "
            f"`chroma run --path FOLDER --port {parts.port or 8000}`, or pass a folder."
        ) from error


def close_client(client: ClientAPI) -> None:
    """Let go of the files of a folder's client."""
    close = getattr(client, "close", None)
    if close is not None:
        close()


def check_store(root: Path) -> None:
    """Refuse a folder that holds something else.

    Raises:
        StoreError: If it is a file, or a folder that is neither empty nor a store of this format.
    """
    if not root.exists():
        return
    if not root.is_dir():
        raise StoreError(f"{str(root)!r} is a file; a store is a folder, so name another.")
    marker = root / MARKER
    if not marker.exists():
        if not all(is_staged(entry, MARKER) for entry in root.iterdir()):
            raise StoreError(
                f"{str(root)!r} is not a quadrieve store: it holds other files and no {MARKER}; "
                "name an empty or new folder."
            )
        return
    try:
        stated = json.loads(marker.read_text(encoding="utf-8"))["format"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f'{str(marker)!r} cannot be read; restore it as {{"format": {FORMAT}}}.') from error
    if stated != FORMAT:
        raise StoreError(
            f"{str(root)!r} has store format {stated!r}, this version reads {FORMAT}; "
            "open it with the version that wrote it."
        )
