"""The commands of the demos."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from quadrieve import InputError, Role

from .agent_command import agent

if TYPE_CHECKING:
    from .four_roles import Case


demo = typer.Typer(subcommand_metavar="[COMMAND [ARGS]...]")
demo.command("agent")(agent)


@demo.callback(invoke_without_command=True)
def four_roles(
    context: typer.Context,
    role: Annotated[list[Role] | None, typer.Option(help="Show only this role; may be given several times.")] = None,
    model: Annotated[str | None, typer.Option(help="Embedder: hub id or folder; the packaged one by default.")] = None,
    lm: Annotated[str | None, typer.Option(help="Reading model: hub id or folder; SmolLM2 by default.")] = None,
    every: Annotated[bool, typer.Option("--all", help="All cases that were written, not three a role.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
) -> None:
    """Show the four roles end to end on real text, offline, with and without retrieval.

    Example: quadrieve demo --role memory --role tool
    """
    if context.invoked_subcommand:
        if any(context.params.values()):
            raise InputError(f"Write the options of {context.invoked_subcommand} behind it.")
        return
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    from rich.console import Console

    console = Console(stderr=True)
    start = time.monotonic()
    cases: list[Case] = []
    with console.status("Loading the libraries …") as status:
        from quadrieve import Embedder

        from .four_roles import SHOWS
        from .reader import Reader

        embedder = Embedder.load(model)
        status.update("Loading the reading model …")
        reader = Reader.load(lm)
        for shown in role or list(Role):
            status.update(f"{shown.value}: indexing …")
            for case in SHOWS[shown](embedder, reader, every=every):
                cases.append(case)
                status.update(f"{shown.value}: {len(cases)} cases answered …")
    seconds = round(time.monotonic() - start, 1)
    if as_json:
        summary = {"model": embedder.name, "seconds": seconds, "cases": [asdict(case) for case in cases]}
        json.dump(summary, sys.stdout, indent=2, ensure_ascii=False)
        print()
    else:
        _print(cases, embedder.name, seconds)


def _print(cases: list[Case], model: str, seconds: float) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for case in cases:
        console.print(Text(f"\n{case.role.value}: {case.asked}", style="bold"))
        for label, text in (
            ("without", case.without),
            ("found", "\n           ".join(case.retrieved)),
            ("with", case.said),
            ("right", case.right),
        ):
            console.print(Text(f"  {label:<8} {text}", style="green" if label == "with" and case.answered else ""))
    table = Table(title=f"{model}, {seconds:.0f} s")
    for column in ("role", "cases", "right one retrieved", "right with it", "right without"):
        table.add_column(column, justify="left" if column == "role" else "right")
    for role in dict.fromkeys(case.role for case in cases):
        own = [case for case in cases if case.role == role]
        alone = sum(case.right.casefold() in case.without.casefold() for case in own)
        table.add_row(
            role.value,
            str(len(own)),
            str(sum(case.found for case in own)),
            str(sum(case.answered for case in own)),
            str(alone),
        )
    console.print()
    console.print(table)
