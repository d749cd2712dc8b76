"""The command `quadrieve demo agent`."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from quadrieve import InputError

if TYPE_CHECKING:
    from .agent import Turn

#: Makes turns of a toolbox, its tools, conversations, prices, and how many tools a turn is offered.
Lead = Callable[..., Iterator["Turn"]]


def agent(
    messages: Annotated[
        list[str] | None, typer.Argument(help="What you say, turn by turn; without it, two written conversations.")
    ] = None,
    framework: Annotated[Literal["langchain", "llama-index"], typer.Option(help="Whose agent it is.")] = "langchain",
    tools: Annotated[int, typer.Option(help="How many tools it has.", min=1)] = 5000,
    max_tools: Annotated[int, typer.Option(help="How many of them are chosen for a turn.", min=1)] = 5,
    store: Annotated[Path, typer.Option(help="Folder of the indexed tools; they are indexed once.")] = Path("toolbox"),
    model: Annotated[str | None, typer.Option(help="Embedder: hub id or folder; the packaged one by default.")] = None,
    lm: Annotated[
        str | None,
        typer.Option(help="What calls: hub id, folder, or in LangChain provider:model of an API; SmolLM2 by default."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Lead an agent with 5,000 tools through a talk, and see what it is offered in each turn, and what that saves.

    Example: quadrieve demo agent "Is it raining in Tarrock?" "And will it tomorrow?"
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="Skipping serialization")  # LlamaIndex's own, of its own memory
    from rich.console import Console

    if not all(map(str.strip, messages or ())):
        raise InputError("One of the messages is empty; say something in each.")
    progress = Console(stderr=True)
    with progress.status("Loading the libraries …"):
        from quadrieve import Embedder, Toolbox

        from .agent import Prices, Request, register, talks
        from .catalogue import catalogue

        written = catalogue(tools)
        embedder = Embedder.load(model)
        lead, count_tokens = _open(framework, lm)
        prices = Prices(written, count_tokens)
    with Toolbox.open(store, embedder=embedder) as box:
        start = time.monotonic()
        indexed = register(box, written, progress=not as_json)
        summary = {
            "framework": framework,
            "model": embedder.name,
            "tools": len(written),
            "indexed": indexed,
            "seconds_indexing": round(time.monotonic() - start, 1),
            "tokens_of_all": prices.all,
        }
        said = [[Request(message) for message in messages]] if messages else talks()
        done: list[Turn] = []
        with progress.status("Reading …"):
            box.select("What is loaded once is not the time of selection.", k=1)
            for turn in lead(box, written, said, prices, max_tools):
                done.append(turn)
                if not as_json:
                    _print_turn(turn, summary)
    if as_json:
        json.dump({**summary, "turns": [asdict(turn) for turn in done]}, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _print_summary(done, summary)


def _open(framework: str, lm: str | None) -> tuple[Lead, Callable[[str], int]]:
    """What leads a conversation with a language model, and how that counts tokens."""
    from functools import partial

    if framework == "langchain":
        from quadrieve.examples import estimate_tokens

        from . import agent_langchain
        from .reader_langchain import ReaderChat, open_chat_model

        chat = open_chat_model(lm, max_tokens=1000)
        count = chat.reader.count_tokens if isinstance(chat, ReaderChat) else estimate_tokens
        return partial(agent_langchain.lead, chat), count
    from . import agent_llama_index
    from .reader import Reader
    from .reader_llama_index import ReaderFunctionLLM

    if lm and ":" in lm:
        raise InputError(f"--lm {lm} is a provider's; with --framework llama-index name a hub id or a folder.")
    reader = Reader.load(lm)
    return partial(agent_llama_index.lead, ReaderFunctionLLM(reader=reader)), reader.count_tokens


def _print_turn(turn: Turn, summary: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    lines = Table.grid(padding=(0, 2))
    needed = [("  needed", turn.needed, None)] if turn.needed else []
    for label, text, right in (
        *needed,
        ("  offered", ", ".join(turn.offered), turn.found),
        ("  called", "; ".join(turn.called) or f"nothing, and said: {turn.said}", turn.right),
        ("  saved", f"{_saved(turn.tokens, summary):.2%} of the tokens, in {turn.milliseconds:.0f} ms", None),
    ):
        lines.add_row(label, Text(text, style={True: "green", False: "red", None: ""}[right]))
    console = Console()
    console.print(Text(f"\n{turn.talk}: {turn.asked}", style="bold"))
    console.print(lines)


def _print_summary(turns: Sequence[Turn], summary: dict[str, Any]) -> None:
    from statistics import mean, median

    from rich.console import Console
    from rich.table import Table

    known = [turn for turn in turns if turn.needed]
    tokens = mean(turn.tokens for turn in turns)
    times = [turn.milliseconds for turn in turns]
    table = Table(title=f"{summary['framework']}, {summary['model']}, {summary['tools']} tools", show_header=False)
    if known:
        table.add_row("right tool offered", f"{sum(turn.found is True for turn in known)} of {len(known)} turns")
        table.add_row("right tool called", f"{sum(turn.right is True for turn in known)} of {len(known)} turns")
    table.add_row("tokens of all tools", f"{summary['tokens_of_all']:,}")
    table.add_row("tokens of those offered", f"{tokens:,.0f} a turn: {_saved(tokens, summary):.2%} are saved")
    table.add_row("time of selection", f"{median(times):.0f} ms, at most {max(times):.0f} ms")
    table.add_row("indexed now", f"{summary['indexed']} tools in {summary['seconds_indexing']} s")
    console = Console()
    console.print()
    console.print(table)


def _saved(tokens: float, summary: dict[str, Any]) -> float:
    return float(1 - tokens / summary["tokens_of_all"])
