"""The commands `quadrieve index` and `quadrieve search`."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Optional

import typer

if TYPE_CHECKING:
    from quadrieve import Hit, KnowledgeBase

_STORE = typer.Option(help="Folder of the knowledge base, or http://host:port of a Chroma server.")
_NAME = typer.Option(help="Tells several knowledge bases of one store apart.")
_MODEL = typer.Option(help="Embedder: hub id or folder; the packaged one by default.")


def index(
    folder: Annotated[Path, typer.Argument(help="Folder of text, Markdown, HTML and PDF.")],
    store: Annotated[str, _STORE] = "library",
    name: Annotated[str, _NAME] = "default",
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045 - typer reads this form on every Python
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Bring a knowledge base in step with a folder: what is new or changed is read, what is gone is removed.

    Example: quadrieve index ~/notes --store library
    """
    from .library import sync

    start = time.monotonic()
    with _open(store, name, model) as kb:
        done = sync(kb, folder, progress=not as_json)
        total = kb.count()
    seconds = round(time.monotonic() - start, 1)
    if as_json:
        typer.echo(json.dumps({**asdict(done), "total": total, "seconds": seconds}, ensure_ascii=False))
    else:
        for source, reason in done.failed.items():
            typer.echo(f"quadrieve: {source} cannot be read: {reason}", err=True)
        typer.echo(
            f"{len(done.added)} files added, {len(done.changed)} changed, {len(done.removed)} removed, "
            f"{done.unchanged} unchanged, {len(done.failed)} not readable; {total} passages in {store} ({seconds} s)"
        )
    if done.failed:
        raise typer.Exit(1)


def search(
    query: Annotated[str, typer.Argument(help="What is asked.")],
    store: Annotated[str, _STORE] = "library",
    name: Annotated[str, _NAME] = "default",
    k: Annotated[int, typer.Option(help="How many passages at most.", min=1)] = 5,
    mode: Annotated[
        Literal["hybrid", "dense", "lexical"], typer.Option(help="Rank by meaning and words, or one of them.")
    ] = "hybrid",
    answer: Annotated[bool, typer.Option(help="Also let a language model answer from the passages.")] = False,
    model: Annotated[Optional[str], _MODEL] = None,  # noqa: UP045
    lm: Annotated[Optional[str], typer.Option(help="It: hub id or folder; SmolLM2 by default.")] = None,  # noqa: UP045
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Find the passages that answer a question, with their sources.

    Example: quadrieve search "When does the ferry leave?" --store library
    """
    from quadrieve import StoreError
    from quadrieve.index.location import MARKER

    from .library import cite

    if "://" not in store and not (Path(store).expanduser() / MARKER).exists():
        raise StoreError(f"There is no knowledge base in {store!r}; make one with `quadrieve index FOLDER`.")
    with _open(store, name, model) as kb:
        hits = kb.search(query, k, mode=mode)
    said = _answer(query, hits, lm) if answer and hits else None
    if as_json:
        found = [
            {"text": hit.text, "score": hit.score, "source": cite(hit.metadata), "why": dict(hit.why)} for hit in hits
        ]
        typer.echo(json.dumps({"query": query, "answer": said, "hits": found}, ensure_ascii=False))
        return
    if said is not None:
        typer.echo(f"{said}\n")
    for number, hit in enumerate(hits, 1):
        typer.echo(f"[{number}] {cite(hit.metadata)}  ({hit.score:.2f})")
        typer.echo("    " + hit.text.strip().replace("\n", "\n    ") + "\n")
    if not hits:
        typer.echo("Nothing was found.")


def _open(store: str, name: str, model: str | None) -> KnowledgeBase:
    from quadrieve import Embedder, KnowledgeBase

    return KnowledgeBase.open(store, embedder=Embedder.load(model), name=name)


def _answer(query: str, hits: list[Hit], lm: str | None) -> str:
    """What a language model says to the best passages."""
    from .reader import Reader

    passages = "\n\n".join(hit.text for hit in hits[:2])
    request = f"{passages}\n\nAnswer in a few words, only from the text above.\nQuestion: {query}"
    return Reader.load(lm).reply([{"role": "user", "content": request}])
