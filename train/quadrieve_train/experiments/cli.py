"""The command `quadrieve experiment`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer


def experiment(
    name: Annotated[str, typer.Argument(help="reward, multitask, batching or ablation.")],
    data: Annotated[Path, typer.Option(help="Folder of collections.")] = Path("."),
    out: Annotated[Path, typer.Option(help="Folder of reports; rows and runs in it are shared.")] = Path("experiments"),
    qa: Annotated[str, typer.Option(help="Collection of knowledge.")] = "strategyqa_facts",
    chat: Annotated[str, typer.Option(help="Collection of conversations.")] = "irc_disentangle",
    icl: Annotated[str, typer.Option(help="Collection of examples.")] = "icl_mix",
    tool: Annotated[str, typer.Option(help="Collection of tools.")] = "sealtools",
    model: Annotated[str, typer.Option(help="Weights to start from.")] = "minilm",
    lm: Annotated[str, typer.Option(help="Language model that labels.")] = "smollm2",
    steps: Annotated[int, typer.Option(help="Optimizer steps of an arm.")] = 24,
    batch_size: Annotated[int, typer.Option(help="Queries in a step.")] = 10,
    seeds: Annotated[int, typer.Option(help="Runs of each arm.")] = 2,
    train_queries: Annotated[int, typer.Option(help="Training queries of each role.")] = 200,
    labelled: Annotated[int, typer.Option(help="How many of them are labelled.")] = 24,
    test_queries: Annotated[int, typer.Option(help="Test queries of each role.")] = 60,
    keys: Annotated[int, typer.Option(help="Texts that they search; conversations stay whole.")] = 300,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare ways to train; a run that was stopped goes on, and experiments share what they have in common.

    Example: quadrieve experiment ablation --data data --out experiments
    """
    from quadrieve.errors import InputError

    from . import verdict
    from .arms import EXPERIMENTS, base_recipe
    from .runner import run
    from .samples import Size

    if name not in EXPERIMENTS:
        raise InputError(f"Unknown experiment {name!r}; expected one of {', '.join(EXPERIMENTS)}.")
    chosen = EXPERIMENTS[name](base_recipe(model=model, lm=lm, steps=steps, batch_size=batch_size))
    size = Size(train_queries, labelled, test_queries, keys, tuple(range(1, seeds + 1)))
    sources = {"qa": qa, "chat": chat, "icl": icl, "tool": tool}
    result = run(chosen, data, sources, out / "shared", size, progress=not as_json)
    report = verdict.to_markdown(name, chosen, result, shlex.join(["quadrieve", *sys.argv[1:]]))
    (out / f"{name}.md").write_text(report, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    verdict.write_picture(chosen, result, out / f"{name}.png")
    typer.echo(json.dumps(result) if as_json else report)
