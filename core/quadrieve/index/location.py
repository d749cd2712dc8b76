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


def connect(location: Location, collection: str) -> tuple[ClientAPI, str]:
    """A Chroma client for a location, and what to call the collection there.

    Raises:
        StoreError: If the folder is not a store.
        ServerError: If no server answers.
        InputError: If the location is none of the four kinds.
    """
    if location is None:
        # Chroma's in-memory clients of one process share one database: a name of its own keeps stores apart.
        return _ephemeral(), f"{collection}.{uuid.uuid4().hex}"
    if isinstance(location, str) and "://" in location:
        return _server(location), collection
    if isinstance(location, str | os.PathLike):
        return _folder(Path(location).expanduser(), collection), collection
    if hasattr(location, "get_or_create_collection"):
        return location, collection
    raise InputError(
        f"A location is a folder, 'http://host:port', a chromadb client or None, got {type(location).__name__}."
    )


def _settings() -> Any:
    from chromadb.config import Settings

    return Settings(anonymized_telemetry=False)


def _ephemeral() -> ClientAPI:
    import chromadb

    return chromadb.EphemeralClient(_settings())


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


def _folder(root: Path, collection: str) -> ClientAPI:
    import chromadb

    check_store(root)
    root.mkdir(parents=True, exist_ok=True)
    marker = root / MARKER
    if not marker.exists():
        marker.write_text(json.dumps({"format": FORMAT}) + "\n", encoding="utf-8")
    generation = root / collection / "gen-000001"
    generation.mkdir(parents=True, exist_ok=True)
    try:
        return chromadb.PersistentClient(generation, settings=_settings())
    except Exception as error:
        raise StoreError(f"{str(generation)!r} cannot be opened as a Chroma database: {error}.") from error


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
        if any(root.iterdir()):
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
