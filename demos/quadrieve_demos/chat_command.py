"""The command `quadrieve chat`."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from .chat import Companion


def chat(
    folder: Annotated[Path, typer.Option(help="Where memories, conversations and documents are kept.")] = Path("chat"),
    model: Annotated[str | None, typer.Option(help="Embedder: hub id or folder; the packaged one by default.")] = None,
    lm: Annotated[
        str | None, typer.Option(help="What answers: hub id, folder, or provider:model of an API; SmolLM2 by default.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer, in tokens.", min=1)] = 80,
    host: Annotated[str, typer.Option(help="Where to listen: only this machine can connect by default.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the page.", min=1, max=65535)] = 7860,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Open a chat that remembers for months, as a page of this machine.

    Example: quadrieve chat --lm openai:gpt-5-mini
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    from .chat_page import serve

    serve(lambda: _load(folder, model, lm, max_tokens), host, port, browser=browser)


def _load(folder: Path, model: str | None, lm: str | None, max_tokens: int) -> Companion:
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from quadrieve import Embedder

    from .chat import Companion
    from .reader_langchain import open_chat_model

    return Companion(folder, Embedder.load(model), open_chat_model(lm, max_tokens))
