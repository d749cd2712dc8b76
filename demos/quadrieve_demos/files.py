"""Files as passages: text, Markdown, HTML and PDF, read and split by libraries that do that well."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from quadrieve.errors import InputError, QuadrieveError
from quadrieve.index.location import MARKER

#: Characters of a passage: about 200 tokens of English, which the packaged model reads whole.
PASSAGE = 800
_OVERLAP = 100


class UnreadableError(QuadrieveError):
    """A file cannot be read as what its name says it is."""


@dataclass(frozen=True)
class Passage:
    """A part of a file.

    Attributes:
        text: What it says.
        where: Where in the file it stands: its `page` in a PDF, its `heading` in Markdown, its `title` in HTML.
    """

    text: str
    where: Mapping[str, Any] = field(default_factory=dict)


def readable(folder: Path) -> list[Path]:
    """The files of a folder and those below it that can be read, sorted; hidden ones and stores are left out."""
    found: list[Path] = []
    for root, folders, files in os.walk(folder):
        folders[:] = [
            name for name in folders if not name.startswith(".") and not (Path(root) / name / MARKER).exists()
        ]
        found += [Path(root) / name for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.suffix.lower() in READERS and path.is_file())


def read(path: Path) -> list[Passage]:
    """A file's passages, in its order.

    Raises:
        UnreadableError: If it is damaged, locked by a password, or no text.
        InputError: If the library that reads it is not installed.
    """
    try:
        sections = list(READERS[path.suffix.lower()](path))
    except UnreadableError:
        raise
    except ImportError as error:
        raise InputError(f"To read {path.name}, install {error.name}: pip install 'quadrieve[demos]'.") from error
    except Exception as error:  # what a parser raises on a damaged file is its own affair
        raise UnreadableError(f"{type(error).__name__}: {error}".splitlines()[0]) from error
    return [
        Passage(part, section.where) for section in sections for part in _splitter().split_text(section.text) if part
    ]


def _text(path: Path) -> Iterator[Passage]:
    yield Passage(_decode(path))


def _markdown(path: Path) -> Iterator[Passage]:
    from langchain_text_splitters import MarkdownHeaderTextSplitter

    levels = [("#" * level, str(level)) for level in range(1, 5)]
    for section in MarkdownHeaderTextSplitter(levels, strip_headers=False).split_text(_decode(path)):
        heading = " > ".join(section.metadata[level] for level in sorted(section.metadata))
        yield Passage(section.page_content, {"heading": heading} if heading else {})


def _html(path: Path) -> Iterator[Passage]:
    from bs4 import BeautifulSoup

    soup = BeautifulSoup(path.read_bytes(), "lxml")
    title = soup.title.get_text(" ", strip=True) if soup.title else ""
    for hidden in soup(["script", "style", "template", "noscript", "head"]):
        hidden.decompose()
    blocks = (line.strip() for line in soup.get_text("\n").splitlines())
    yield Passage("\n".join(filter(None, blocks)), {"title": title} if title else {})


def _pdf(path: Path) -> Iterator[Passage]:
    from pypdf import PdfReader

    reader = PdfReader(path)
    if reader.is_encrypted and not reader.decrypt(""):
        raise UnreadableError("it is locked by a password")
    for number, page in enumerate(reader.pages, 1):
        yield Passage(page.extract_text(), {"page": number})


READERS: Mapping[str, Callable[[Path], Iterator[Passage]]] = {
    ".txt": _text,
    ".text": _text,
    ".rst": _text,
    ".md": _markdown,
    ".markdown": _markdown,
    ".html": _html,
    ".htm": _html,
    ".pdf": _pdf,
}


def _decode(path: Path) -> str:
    data = path.read_bytes()
    if b"\0" in data:
        raise UnreadableError("it is binary, not text")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace")


@functools.cache
def _splitter() -> Any:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    return RecursiveCharacterTextSplitter(chunk_size=PASSAGE, chunk_overlap=_OVERLAP)
