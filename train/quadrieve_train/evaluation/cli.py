"""The command `quadrieve evaluate`."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Optional

import typer


def evaluate(
    model: Annotated[
        Optional[str],  # noqa: UP045 - typer reads this form on every Python
        typer.Argument(help="Hub id, folder or minilm."),
    ] = None,
    data: Annotated[Path, typer.Option(help="Folder of sets, or paper for the paper's own.")] = Path("."),
    sets: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Names of sets, apart by commas; all if not given."),
    ] = None,
    against: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Another model to compare with; may be repeated."),
    ] = None,
    split: Annotated[str, typer.Option(help="Which queries.")] = "test",
    queries: Annotated[Optional[int], typer.Option(help="Queries of each set.")] = None,  # noqa: UP045
    keys: Annotated[Optional[int], typer.Option(help="Texts of each corpus, positives among them.")] = None,  # noqa: UP045
    with_lm: Annotated[bool, typer.Option("--lm/--no-lm", help="Let a language model read what was found.")] = True,
    lm: Annotated[str, typer.Option("--lm-model", help="Hub id, folder, .gguf file, or smollm2.")] = "smollm2",
    lm_queries: Annotated[int, typer.Option(help="Queries of each set that the language model reads for.")] = 50,
    training_rows: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="JSON lines of training rows that no query may be in."),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder of report.json, report.md and report.png.")] = Path("evaluation"),
    cache: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of kept vectors and scores; within OUT if not given."),
    ] = None,
    compare: Annotated[
        Optional[tuple[Path, Path]],  # noqa: UP045
        typer.Option(help="Compare two reports instead."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Measure a model in the four roles, beside nothing, recency, chance, BM25, its start and its hybrid.

    Example: quadrieve evaluate minilm --data data --sets sealtools --queries 100 --no-lm
    """
    from quadrieve.errors import InputError

    from .report import compare as compare_reports
    from .report import read_report, to_markdown, write_picture

    if compare is not None:
        typer.echo(compare_reports(read_report(compare[0]), read_report(compare[1])))
        return
    if model is None:
        raise InputError("Name a model to evaluate, such as minilm, or two reports with --compare A.json B.json.")
    from ..pipeline import open_lm
    from .run import evaluate as run
    from .run import find_sets

    chosen = find_sets(data, sets.split(",") if sets else None, split=split, queries=queries, keys=keys)
    report = run(
        model,
        chosen,
        cache=cache or out / "cache",
        others=against or (),
        data=data,
        lm=open_lm(lm, max_length=1536) if with_lm else None,
        lm_queries=lm_queries,
        rows=training_rows,
        progress=not as_json,
    )
    report["command"] = shlex.join(["quadrieve", *sys.argv[1:]])
    report["settings"] = {"split": split, "queries": queries, "keys": keys, "lm_queries": lm_queries if with_lm else 0}
    out.mkdir(parents=True, exist_ok=True)
    markdown = to_markdown(report)
    (out / "report.json").write_text(json.dumps(report) + "\n", encoding="utf-8")
    (out / "report.md").write_text(markdown, encoding="utf-8")
    write_picture(report, out / "report.png")
    typer.echo(json.dumps(report) if as_json else markdown)
