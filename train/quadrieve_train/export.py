"""The result of training: a sentence-transformers folder with prompts, a model card, and how it came to be."""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quadrieve import Embedder, checkpoint, find_task
from quadrieve.checkpoint import Checkpoint

from .encoder import BiEncoder
from .recipes import Recipe


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
    """
    prompts: dict[str, str] = {}
    if recipe.prefixes == "task":
        for name in recipe.tasks:
            task = find_task(name)
            prompts |= {f"{name}_query": task.query_prefix, f"{name}_key": task.key_prefix}
    with tempfile.TemporaryDirectory() as staged:
        merged: Any = encoder.merged()
        merged.save_pretrained(staged)
        tokenizer.save_pretrained(staged)
        trained = Checkpoint(
            folder.name, Path(staged), start.pooling, start.dim, start.max_length, {**start.prompts, **prompts}
        )
        checkpoint.write(trained, folder, overwrite=True)
    embedder = Embedder.load(folder)
    fingerprints = {name: embedder.view(name).fingerprint for name in recipe.tasks}
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    training = {
        "start": start.name,
        "fingerprints": fingerprints,
        "data": dict(data or {}),
        "rewards": dict(health or {}),
        "figures": dict(figures or {}),
    }
    (folder / "training.json").write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    card = _card(start, recipe, fingerprints, figures or {}, data or {}, health or {})
    (folder / "README.md").write_text(card, encoding="utf-8")
    return folder


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
        "---",
        "library_name: sentence-transformers",
        "pipeline_tag: sentence-similarity",
        "tags: [sentence-transformers, quadrieve]",
        "---",
        "",
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
