"""The command `quadrieve experiment`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def experiment(
    name: Annotated[str, typer.Argument(help="One of the experiments below.")],
    data: Annotated[Path, typer.Option(help="Folder of collections.")] = Path("."),
    out: Annotated[Path, typer.Option(help="Folder of reports; rows and runs in it are shared.")] = Path("experiments"),
    qa: Annotated[str, typer.Option(help="Collection of knowledge.")] = "strategyqa_facts",
    chat: Annotated[str, typer.Option(help="Collection of conversations.")] = "irc_disentangle",
    icl: Annotated[str, typer.Option(help="Collection of examples.")] = "icl_mix",
    tool: Annotated[str, typer.Option(help="Collection of tools.")] = "sealtools",
    model: Annotated[
        Optional[list[str]],  # noqa: UP045 - typer reads this form on every Python
        typer.Option(help="Weights to start from, minilm if not given; repeated for scaling."),
    ] = None,
    lm: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Language model that labels, smollm2 if not given; repeated for llm-transfer."),
    ] = None,
    steps: Annotated[int, typer.Option(help="Optimizer steps of an arm.")] = 24,
    batch_size: Annotated[int, typer.Option(help="Queries in a step.")] = 10,
    seeds: Annotated[int, typer.Option(help="Runs of each arm.")] = 2,
    train_queries: Annotated[int, typer.Option(help="Training queries of each role.")] = 200,
    labelled: Annotated[int, typer.Option(help="How many of them are labelled.")] = 24,
    test_queries: Annotated[int, typer.Option(help="Test queries of each role.")] = 60,
    keys: Annotated[int, typer.Option(help="Texts that they search; conversations stay whole.")] = 300,
    read_queries: Annotated[int, typer.Option(help="Test queries of each role that language models read for.")] = 12,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Compare ways to train; a run that was stopped goes on, and experiments share what they have in common.

    reward (rank or likelihood), multitask (one model or four), batching, ablation (the paper's table 4), interference
    (frequency and order of tasks), many-tasks (self-pacing), scaling (backbones), transfer (outside the roles),
    llm-transfer (rewards of one language model, read by another).

    Example: quadrieve experiment ablation --data data --out experiments
    """
    from quadrieve.errors import InputError

    from . import verdict
    from .arms import EXPERIMENTS, Settings, base_recipe
    from .runner import run
    from .samples import Size, many_sources, outside_sources

    if name not in EXPERIMENTS:
        raise InputError(f"Unknown experiment {name!r}; expected one of {', '.join(EXPERIMENTS)}.")
    models, lms = tuple(model or ["minilm"]), tuple(lm or ["smollm2"])
    given = Settings(
        base_recipe(model=models[0], lm=lms[0], steps=steps, batch_size=batch_size),
        models,
        lms,
        many=many_sources(data, icl) if name == "many-tasks" else {},
        outside=outside_sources(data, icl) if name == "transfer" else {},
    )
    chosen = EXPERIMENTS[name](given)
    size = Size(train_queries, labelled, test_queries, keys, read_queries, tuple(range(1, seeds + 1)))
    sources = {"qa": qa, "chat": chat, "icl": icl, "tool": tool}
    result = run(chosen, data, sources, out / "shared", size, progress=not as_json)
    report = verdict.to_markdown(name, chosen, result, shlex.join(["quadrieve", *sys.argv[1:]]))
    (out / f"{name}.md").write_text(report, encoding="utf-8")
    (out / f"{name}.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    verdict.write_picture(chosen, result, out / f"{name}.png")
    typer.echo(json.dumps(result) if as_json else report)
