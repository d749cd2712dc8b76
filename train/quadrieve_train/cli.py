"""The commands of training: `quadrieve label`, `train`, `merge` and `shrink`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Literal, Optional

import typer


def label(
    rows: Annotated[Path, typer.Argument(help="JSON lines of rows, or a folder with corpus.jsonl and queries.jsonl.")],
    out: Annotated[Path, typer.Option(help="Where the labelled rows go, as JSON lines.")],
    lm: Annotated[
        str, typer.Option(help="Hub id, folder, .gguf file, URL of a completions server, or smollm2.")
    ] = "smollm2",
    reward: Annotated[Literal["rank", "likelihood"], typer.Option(help="Kind of reward.")] = "rank",
    store: Annotated[
        Optional[Path],  # noqa: UP045 - typer reads this form on every Python
        typer.Option(help="Folder of the reward store; beside OUT if not given."),
    ] = None,
    task: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Task of rows that do not say; needed for a folder."),
    ] = None,
    split: Annotated[str, typer.Option(help="Of a folder: which queries.")] = "train",
    limit: Annotated[Optional[int], typer.Option(help="Label that many rows.")] = None,  # noqa: UP045
    candidates: Annotated[int, typer.Option(help="Candidates a row.")] = 8,
    outputs: Annotated[int, typer.Option(help="Outputs that the desired one is ranked among.")] = 10,
    new_tokens: Annotated[int, typer.Option(help="Longest sampled output.")] = 32,
    max_length: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Tokens of prompt and output, if fewer than the model reads."),
    ] = None,
    chat: Annotated[bool, typer.Option(help="Use the model's chat template.")] = True,
    seed: Annotated[int, typer.Option(help="Of what is drawn.")] = 13,
    as_json: Annotated[bool, typer.Option("--json", help="Print the reward health as JSON.")] = False,
) -> None:
    """Turn candidates into rewards; a run that was stopped goes on, and nothing is scored twice.

    Example: quadrieve label rows.jsonl --task qa --lm smollm2 --reward rank --out labelled.jsonl
    """
    from quadrieve.errors import InputError

    from .collating import draw_candidates
    from .mining import mine
    from .pipeline import open_lm
    from .rewards import LabelOptions, reward_health
    from .rewards import label as make_rewards
    from .rows import as_row, read_collection, read_rows, write_rows

    if rows.is_dir():
        if task is None:
            raise InputError(f"{rows} is a collection; name the task of its queries with --task.")
        mined = map(as_row, mine(read_collection(rows), task, method="bm25", split=split, limit=limit, seed=seed))
        found = [row for row in mined if row.answers]  # a collection may have queries without answers, rows may not
    else:
        found = list(map(as_row, read_rows(rows, task)))
    taken = [draw_candidates(row, candidates, f"label {row.query_id}") for row in found[:limit]]
    options = LabelOptions(kind=reward, outputs=outputs, seed=seed, max_new_tokens=new_tokens, chat=chat)
    model = open_lm(lm, max_length=max_length)
    folder = store or out.with_name(out.name + ".rewards")
    labelled = [as_row(record) for record in make_rewards(taken, model, folder, options, progress=not as_json)]
    write_rows(labelled, out)
    health = reward_health(labelled)
    if as_json:
        typer.echo(json.dumps({"rows": str(out), "lm": model.revision, "reward": reward, "health": health.to_dict()}))
        return
    typer.echo(f"{len(labelled)} rows with rewards of {model.revision} in {out}")
    for name, value in health.to_dict().items():
        typer.echo(f"  {name.replace('_', ' ')}: {'-' if value is None else f'{value:.3g}'}")


def train(
    recipe: Annotated[str, typer.Argument(help="A YAML file, or a recipe of the package: cpu, paper, release.")],
    data: Annotated[Path, typer.Option(help="Folder that the recipe's sources are in.")] = Path("."),
    out: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("model"),
    work: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of rows, rewards and checkpoints; beside OUT if not given."),
    ] = None,
    mined: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the mined rows, which runs of one recipe may share; within WORK if not given."),
    ] = None,
    rewards: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of the reward store, which runs may share; within WORK if not given."),
    ] = None,
    task: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="Train this task of the recipe alone, or these."),
    ] = None,
    seed: Annotated[Optional[int], typer.Option(help="In place of the recipe's.")] = None,  # noqa: UP045
    steps: Annotated[Optional[int], typer.Option(help="In place of the recipe's; a few show that all works.")] = None,  # noqa: UP045
    cpu: Annotated[bool, typer.Option(help="Do not use a GPU.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Turn rewards into a model: mine, label, train, export. Ctrl-C saves; the same command goes on.

    Example: quadrieve train cpu --data data --out model
    """
    from dataclasses import replace

    from accelerate import PartialState  # type: ignore[import-untyped]  # comes without types

    from .pipeline import train as run
    from .recipes import Recipe

    chosen = Recipe.load(recipe)
    if task:
        chosen = chosen.only(task)
    chosen = replace(
        chosen,
        seed=chosen.seed if seed is None else seed,
        steps=chosen.steps if steps is None else steps,
    )
    result = run(chosen, data, out, work=work, mined=mined, rewards=rewards, progress=not as_json, use_cpu=cpu)
    if not PartialState().is_main_process:  # one of many, that `accelerate launch` started
        return
    if as_json:
        typer.echo(json.dumps({"model": str(result.folder), "before": result.before, "after": result.after}))
        return
    typer.echo(f"The model is in {result.folder}")
    for name, value in result.after.items():
        before = result.before.get(name)
        typer.echo(f"  {name}: NDCG@10 {value:.3f}" + (f" (was {before:.3f})" if before is not None else ""))


def merge(
    model: Annotated[str, typer.Argument(help="What all tasks without an expert are taken from, a trained model.")],
    expert: Annotated[
        list[str], typer.Option(help="TASK=MODEL, again for each task: who knows it best. Of several the mean.")
    ],
    data: Annotated[Path, typer.Option(help="Folder that the model's training sources are in.")],
    out: Annotated[Path, typer.Option(help="Folder of the merged model.")],
    weight: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="TASK=NUMBER, again for each task: how much its expert is followed; 1 if not given."),
    ] = None,
    texts: Annotated[int, typer.Option(help="Texts of each task that are read.")] = 900,
    seed: Annotated[int, typer.Option(help="Of which.")] = 13,
) -> None:
    """Make one model of several that each know a task best, without training.

    Example: quadrieve merge model --expert tool=tools --weight qa=3 --data data --out merged
    """
    from .merging import merge as run

    experts: dict[str, list[str | Path]] = {}
    for task, of_task in (_pair(given, "tool=runs/tools") for given in expert):
        experts.setdefault(task, []).append(of_task)
    weights = dict(map(_rate, weight or []))
    folder = run(model, experts, data, out, weights=weights, texts=texts, seed=seed, progress=True)
    typer.echo(f"The model is in {folder}")


def shrink(
    models: Annotated[list[str], typer.Argument(help="Folders that `quadrieve train` wrote, trained from minilm.")],
    out: Annotated[Path, typer.Option(help="Folder of the small model.")],
    rank: Annotated[int, typer.Option(help="Rank that a matrix's change is cut to; 128 takes 6 MB.")] = 128,
    share: Annotated[float, typer.Option(help="How much of the change is kept; less keeps more of the start.")] = 1.0,
    start: Annotated[
        str, typer.Option(help="From where it is counted, if they went on from a trained model.")
    ] = "minilm",
    name: Annotated[Optional[str], typer.Option(help="What it is called; as OUT if not given.")] = None,  # noqa: UP045
    word_rate: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="TASK=RATE, again for each task: what a unit of BM25 is worth in hybrid search."),
    ] = None,
) -> None:
    """Keep of a model what training changed: a few megabytes that `Embedder.load` opens wherever minilm is installed.

    Runs from the same weights are averaged. Example: quadrieve shrink seed-1 seed-2 seed-3 --share 0.6 --out small
    """
    from quadrieve.checkpoint import DELTA_FILE

    from .export import shrink as run

    folder = run(models, out, rank, share=share, start=start, name=name, word_rates=dict(map(_rate, word_rate or [])))
    size = (folder / DELTA_FILE).stat().st_size
    typer.echo(f"The model is in {folder}: {size / 1e6:.1f} MB and the packaged minilm")


def _pair(given: str, example: str) -> tuple[str, str]:
    from quadrieve.errors import InputError

    task, _, value = given.partition("=")
    if not value:
        raise InputError(f"Expected a task and its value, such as {example}, got {given!r}.")
    return task, value


def _rate(given: str) -> tuple[str, float]:
    from quadrieve.errors import InputError

    task, rate = _pair(given, "qa=0.004")
    try:
        return task, float(rate)
    except ValueError:
        raise InputError(f"Expected a task and a number, such as qa=0.004, got {given!r}.") from None


def main() -> None:
    """`python -m quadrieve_train`, for `accelerate launch`: the same commands, errors and exit statuses."""
    from quadrieve.errors import InputError, QuadrieveError

    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.command("label")(label)
    app.command("train")(train)
    app.command("merge")(merge)
    app.command("shrink")(shrink)
    try:
        app()
    except QuadrieveError as error:
        print(f"quadrieve: {error}", file=sys.stderr)
        raise SystemExit(2 if isinstance(error, InputError) else 1) from None
    except KeyboardInterrupt:
        print("quadrieve: interrupted", file=sys.stderr)
        raise SystemExit(130) from None
