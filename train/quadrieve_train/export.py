"""The result of training: a sentence-transformers folder with prompts, a model card, and how it came to be."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from quadrieve import Embedder, checkpoint, find_task
from quadrieve.checkpoint import DELTA_FILE, RECIPE_FILE, TRAINING_FILE, WEIGHTS_FILE, Checkpoint
from quadrieve.delta import apply_delta, make_delta
from quadrieve.errors import InputError

from .collating import prefixes_of
from .encoder import BiEncoder
from .lineage import Lineage
from .recipes import Recipe

#: What a model card begins with, for the hub.
CARD_HEAD = (
    "---",
    "library_name: sentence-transformers",
    "pipeline_tag: sentence-similarity",
    "tags: [sentence-transformers, quadrieve]",
    "---",
    "",
)


def export(
    encoder: BiEncoder,
    tokenizer: Any,
    start: Checkpoint,
    recipe: Recipe,
    folder: Path,
    *,
    figures: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    health: Mapping[str, Mapping[str, Any]] | None = None,
    anchor: Checkpoint | None = None,
) -> Path:
    """Write what `Embedder.load` and `SentenceTransformer` open, prefixes included, all or nothing.

    Args:
        encoder: Trained; LoRA adapters are merged into the weights.
        tokenizer: Its tokenizer.
        start: The checkpoint that training began with.
        recipe: How it was trained.
        folder: Where to; what is there is replaced.
        figures: Dev figures before and after, for the model card.
        data: Numbers of rows by task, for the model card.
        health: Health of the rewards by task, likewise; see `reward_health`.
        anchor: The model that tasks were held near, if any.
    """
    prompts: dict[str, str] = {}
    if recipe.prefixes == "task":
        for name in recipe.tasks:
            own = prefixes_of(name, recipe)
            prompts |= {f"{name}_query": own.query, f"{name}_key": own.key}
    write_encoder(
        encoder.merged(), tokenizer, replace(start, prompts={**start.prompts, **prompts}, word_rates={}), folder
    )
    embedder = Embedder.load(folder)
    fingerprints = {name: embedder.view(name).fingerprint for name in recipe.tasks}
    (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    lineage = Lineage.of(start).then(recipe)
    training = {
        "start": start.name,
        **asdict(lineage if anchor is None else lineage.beside(Lineage.of(anchor))),
        "fingerprints": fingerprints,
        "data": dict(data or {}),
        "rewards": dict(health or {}),
        "figures": dict(figures or {}),
    }
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    card = _card(start, recipe, fingerprints, figures or {}, data or {}, health or {})
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


def write_encoder(encoder: Any, tokenizer: Any, like: Checkpoint, folder: Path) -> None:
    """Write an encoder with the pooling, length and prefixes of a checkpoint; what is in the folder is replaced."""
    with tempfile.TemporaryDirectory() as staged:
        with checkpoint.quiet_transformers():
            encoder.save_pretrained(staged)
            tokenizer.save_pretrained(staged)
        checkpoint.write(replace(like, name=folder.name, folder=Path(staged)), folder, overwrite=True)


def shrink(
    models: Sequence[str | Path],
    folder: Path,
    rank: int,
    *,
    share: float = 1.0,
    start: str | Path = checkpoint.PACKAGED_NAME,
    name: str | None = None,
    word_rates: Mapping[str, float] | None = None,
) -> Path:
    """Write what training changed as a small file, which `Embedder.load` puts together with the packaged backbone.

    Several runs from one start are averaged, and the change may be taken only part of the way: both keep more of what
    the start knows of texts unlike those trained on (model soups, arXiv 2203.05482; WiSE-FT, arXiv 2109.01903). Runs
    may be of one recipe, seeds apart, or of several that teach different roles (LM-Cocktail, arXiv 2311.13534).

    Args:
        models: Trained from the same weights, `minilm` or what was trained from it.
        folder: Where to: `delta.safetensors`, `model.json`, the recipe and the model card; what is there is replaced,
            but for a card.
        rank: Rank of a matrix's change; see `quadrieve.delta.make_delta`.
        share: How much of the mean change is kept; 0 is `start`, 1 all of it.
        start: From where that change is counted: the backbone, or the model that the runs went on from.
        name: What the model is called; None for the name of `folder`.
        word_rates: By task, how much words count beside these weights in hybrid search; see `quadrieve.Fusion`.

    Returns:
        The folder.

    Raises:
        InputError: If a model is not the packaged backbone trained further, the models began from different weights or
            with different prefixes, or a rate is of no task.
    """
    if not models or not 0 < share <= 1:
        raise InputError(
            f"Expected at least one model and a share above 0 and at most 1, got {len(models)} and {share}."
        )
    for task, rate in (word_rates or {}).items():
        if find_task(task).name != task or not rate >= 0:
            raise InputError(f"Expected the name of a task and a rate of at least 0, got {task!r} and {rate}.")
    backbone, trained = checkpoint.find(checkpoint.PACKAGED_NAME), [checkpoint.find(model) for model in models]
    whence = checkpoint.find(start)
    lineages = [Lineage.of(one) for one in trained]
    for one, lineage in zip((whence, *trained), (Lineage.of(whence), *lineages), strict=True):
        if lineage.backbone != backbone.name or not (lineage.sources or one is whence):
            raise InputError(
                f"{one.name} was not trained from {backbone.name!r}, whose weights everyone has; keep it whole."
            )
    starts = dict.fromkeys(Recipe.load(one.folder / RECIPE_FILE).model for one in trained)
    if len(starts) > 1:
        raise InputError(f"Only runs from the same weights can be averaged, and these began from {', '.join(starts)}.")
    prompts = agreed_prefixes([one.prompts for one in trained])
    before = load_file(backbone.folder / WEIGHTS_FILE)
    after = average(
        load_file(whence.folder / WEIGHTS_FILE), [load_file(one.folder / WEIGHTS_FILE) for one in trained], share
    )
    delta = make_delta(before, after, rank)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(delta, folder / DELTA_FILE)
    (folder / DELTA_FILE).chmod(0o644)  # safetensors writes for the owner alone
    with tempfile.TemporaryDirectory() as staged:
        save_file(apply_delta(before, delta), Path(staged) / WEIGHTS_FILE)
        weights = replace(backbone, folder=Path(staged)).weights_hash()
    about = {
        "name": name or folder.name,
        "backbone": backbone.name,
        "start": whence.name,
        "runs": len(trained),
        "share": share,
        "weights": weights,
        "prompts": prompts,
        "word_rates": dict(word_rates or {}),
    }
    (folder / "model.json").write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
    shutil.copyfile(trained[0].folder / RECIPE_FILE, folder / RECIPE_FILE)
    training = json.loads((trained[0].folder / TRAINING_FILE).read_text(encoding="utf-8"))
    training["sources"] = reduce(Lineage.beside, lineages).sources
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    if not (folder / "README.md").exists():
        shutil.copyfile(trained[0].folder / "README.md", folder / "README.md")
    return folder


def agreed_prefixes(prompts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """The prefixes of all runs, which may not contradict each other."""
    found: dict[str, str] = {}
    for own in prompts:
        for name, prefix in own.items():
            if found.setdefault(name, prefix) != prefix:
                raise InputError(
                    f"Only runs with the same prefixes can be averaged: {name} is {found[name]!r} and {prefix!r}."
                )
    return found


def average(before: Mapping[str, Tensor], trained: Sequence[Mapping[str, Tensor]], share: float) -> dict[str, Tensor]:
    """The start moved by a share of the runs' mean change; what is no weight stays as it is."""
    moved = dict(before)
    for name in before.keys() & trained[0].keys():
        if before[name].is_floating_point():
            start = before[name].double()
            change = torch.stack([weights[name].double() - start for weights in trained]).mean(dim=0)
            moved[name] = (start + share * change).to(before[name].dtype)
    return moved


def _card(
    start: Checkpoint,
    recipe: Recipe,
    fingerprints: Mapping[str, str],
    figures: Mapping[str, Any],
    data: Mapping[str, Any],
    health: Mapping[str, Mapping[str, Any]],
) -> str:
    roles = ", ".join(f"{name} ({find_task(name).role})" for name in recipe.tasks)
    lines = [
        *CARD_HEAD,
        f"# An embedder for {roles}",
        "",
        f"Trained from `{start.name}` on the rewards of `{recipe.lm}` with quadrieve (the method of arXiv 2310.07554).",
        "",
        "```python",
        "from quadrieve import Embedder",
        'view = Embedder.load("this/folder").view("' + next(iter(recipe.tasks)) + '")',
        "```",
        "",
        "## Data",
        "",
        "| task | sources | rows | rewarded | losses |",
        "|---|---|---|---|---|",
    ]
    for name, task in recipe.tasks.items():
        numbers = data.get(name, {})
        losses = ", ".join(f"{weight:g} {loss}" for loss, weight in task.losses.items())
        lines.append(
            f"| {name} | {', '.join(task.sources)} | {numbers.get('rows', '')} | {numbers.get('rewarded', '')} "
            f"| {losses} |"
        )
    if health:
        lines += ["", "## Rewards", "", "| task | rows | tied pairs | flat rows | rank of the positive, 0 first |"]
        lines.append("|---|---|---|---|---|")
    for name, found in health.items():
        rank = found["positive_rank"]
        shares = f"{found['tie_rate']:.0%} | {found['flat_share']:.0%} | {'-' if rank is None else f'{rank:.2f}'}"
        lines.append(f"| {name} | {found['rows']} | {shares} |")
    lines += ["", "## Dev figures (NDCG@10)", "", "| task | before | after |", "|---|---|---|"]
    before, after = figures.get("before", {}), figures.get("after", {})
    for name in recipe.tasks:
        if name in after:
            lines.append(f"| {name} | {before.get(name, float('nan')):.3f} | {after[name]:.3f} |")
    lines += ["", "## Fingerprints", "", *(f"- {name}: `{value}`" for name, value in fingerprints.items())]
    command = shlex.join(["quadrieve", *sys.argv[1:]]) if len(sys.argv) > 1 else "quadrieve train recipe.yaml"
    lines += ["", "## How", "", "The recipe is in `recipe.yaml`. Command:", "", f"    {command}", ""]
    return "\n".join(lines)
