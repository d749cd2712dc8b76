"""One model of several that each know a task best, in closed form (RegMean, arXiv 2212.09849)."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import reduce
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm
from transformers import AutoTokenizer

from quadrieve import Embedder, checkpoint, find_task
from quadrieve.checkpoint import RECIPE_FILE, TRAINING_FILE, Checkpoint
from quadrieve.errors import InputError

from .encoder import BiEncoder
from .export import CARD_HEAD, agreed_prefixes, average, write_encoder
from .lineage import Lineage, told_of
from .losses import Temperature
from .recipes import Recipe
from .rows import as_row, read_collection, read_rows

_RIDGE = 1e-2  # of a gram's mean diagonal: directions that no text takes follow the experts' mean


def merge(
    model: str | Path,
    experts: Mapping[str, Sequence[str | Path]],
    data: Path,
    folder: Path,
    *,
    weights: Mapping[str, float] | None = None,
    texts: int = 900,
    seed: int = 13,
    progress: bool = False,
) -> Path:
    """Give a model what others know of single tasks, without training, and keep what it knows of its own.

    Each linear layer becomes the one that comes nearest, over the texts of every task, to what that task's expert
    makes of them. Texts of different tasks take different directions (their prefixes see to that), so each expert
    is followed where its own texts go; the mean of weights would follow all of them halfway everywhere. Biases count
    as weights of a constant input; embeddings and layer norms stay the model's. A task takes its expert's prefixes too.

    Args:
        model: What all tasks of its recipe are taken from that have no expert.
        experts: What knows a task best, by task: runs that went on from `model`, or from the weights that it went on
            from; the mean of a task's runs is taken.
        data: The folder that the recipe's sources are in; training queries are read, their candidates, and others.
        folder: Where to: a model as `quadrieve train` writes it; what is there is replaced.
        weights: How much it matters to follow a task's expert, by task; 1 where none is given.
        texts: How many texts of each task are read.
        seed: Of which.
        progress: Show a progress bar on stderr.

    Returns:
        The folder.

    Raises:
        InputError: If a task is not of the model's recipe, an expert has another backbone or other prefixes than the
            task's other experts, a weight is not above 0, or sources are missing.
    """
    base = checkpoint.find(model)
    recipe = _recipe_of(base)
    runs = {task: [checkpoint.find(one) for one in given] for task, given in experts.items()}
    _check(base, runs, recipe, weights or {})
    matters = dict.fromkeys(recipe.tasks, 1.0) | dict(weights or {})
    tokenizer = AutoTokenizer.from_pretrained(base.folder, trust_remote_code=False)
    base = replace(base, prompts=_prefixes(base, runs, recipe))
    own = _mean_of([base])
    parts: list[Part] = []
    for task in tqdm(recipe.tasks, desc="Merging", unit="task", disable=not progress):
        expert = _mean_of(runs[task]) if task in runs else own
        read = _texts(task, base, recipe, data, texts, seed)
        parts.append((expert.state_dict(), input_grams(expert, _batches(read, tokenizer)), matters[task]))
    own.load_state_dict({**own.state_dict(), **merge_linear(parts)})
    write_encoder(own, tokenizer, base, folder)
    (folder / RECIPE_FILE).write_text(recipe.to_yaml(), encoding="utf-8")
    training = _training(base, runs, matters, Embedder.load(folder))
    (folder / TRAINING_FILE).write_text(json.dumps(training, indent=2) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(_card(base, runs, matters), encoding="utf-8")
    return folder


#: An expert's weights, the grams of its layers' inputs on its task's texts, and how much following it matters.
Part = tuple[Mapping[str, Tensor], Mapping[str, Tensor], float]


def input_grams(backbone: nn.Module, batches: Iterator[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """What goes into each linear layer, as the mean over texts of a text's mean outer product.

    Args:
        backbone: A text encoder.
        batches: `input_ids` and `attention_mask`, `[B, L]` each.

    Returns:
        By name of layer `[in + 1, in + 1]`, float64; the last input is the constant that goes with the bias.
    """
    grams: dict[str, Tensor] = {}
    share = torch.empty(0)  # [B, L]: what a token counts, so that every text counts the same

    def add(name: str, inputs: Tensor) -> None:
        rows = torch.nn.functional.pad(inputs[share > 0].double(), (0, 1), value=1.0)
        gram = rows.T @ (rows * share[share > 0].unsqueeze(1))
        grams[name] = grams[name] + gram if name in grams else gram

    hooks = [
        layer.register_forward_pre_hook(lambda _, inputs, name=name: add(name, inputs[0]))
        for name, layer in _linear(backbone).items()
    ]
    count = 0
    try:
        with torch.inference_mode():
            for batch in batches:
                mask = batch["attention_mask"].double()
                share = mask / mask.sum(dim=1, keepdim=True)
                backbone(**batch)
                count += len(mask)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: gram / count for name, gram in grams.items()}


def merge_linear(parts: Sequence[Part]) -> dict[str, Tensor]:
    """The linear layers nearest to all experts' on the texts that the grams are of, by name of weight and bias.

    With an expert's weights `W_i` `[out, in]`, its gram `G_i` and how much it matters `a_i`, the merged weights are
    `(sum a_i W_i G_i) (sum a_i G_i)^-1` (arXiv 2212.09849, section 3.1, equation 2, there transposed).

    Example:
        >>> first = {"l.weight": torch.tensor([[1.0, 0.0]]), "l.bias": torch.zeros(1)}
        >>> second = {"l.weight": torch.tensor([[0.0, 1.0]]), "l.bias": torch.zeros(1)}
        >>> merged = merge_linear([  # one has seen only the first input, the other only the second
        ...     (first, {"l": torch.diag(torch.tensor([1.0, 0.0, 0.0]))}, 1.0),
        ...     (second, {"l": torch.diag(torch.tensor([0.0, 1.0, 0.0]))}, 1.0),
        ... ])
        >>> merged["l.weight"].round(decimals=2)
        tensor([[1., 1.]])
    """
    merged: dict[str, Tensor] = {}
    for name in parts[0][1]:
        total, target = torch.tensor(0.0), torch.tensor(0.0)
        for weights, grams, matters in parts:
            gram = grams[name].double()
            gram = matters * (gram + _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype))
            weight, bias = weights[f"{name}.weight"].double(), weights.get(f"{name}.bias")
            last = weight.new_zeros(len(weight)) if bias is None else bias.double()
            total, target = total + gram, target + torch.cat([weight, last.unsqueeze(1)], dim=1) @ gram
        solved = torch.linalg.solve(total, target.T).T
        like = parts[0][0]
        merged[f"{name}.weight"] = solved[:, :-1].to(like[f"{name}.weight"].dtype).contiguous()
        if f"{name}.bias" in like:
            merged[f"{name}.bias"] = solved[:, -1].to(like[f"{name}.bias"].dtype).contiguous()
    return merged


def _linear(backbone: nn.Module) -> dict[str, nn.Module]:
    return {
        name: layer
        for name, layer in backbone.named_modules()
        if isinstance(layer, nn.Linear) and "pooler" not in name  # the pooler plays no part in the vectors
    }


def _mean_of(models: Sequence[Checkpoint]) -> Any:
    """The text encoder with the mean of the models' weights."""
    encoders: list[Any] = [BiEncoder.load(model, Temperature(), dropout=0).backbone.eval() for model in models]
    states = [encoder.state_dict() for encoder in encoders]
    encoders[0].load_state_dict(average(states[0], states, share=1.0))
    return encoders[0]


def _texts(task: str, base: Checkpoint, recipe: Recipe, data: Path, count: int, seed: int) -> list[tuple[str, int]]:
    """Texts with their prefix and longest length: as many queries as positives of theirs as other candidates."""
    sources = recipe.tasks[task].sources
    each = max(1, count // (3 * len(sources)))
    query, key = (base.prompts.get(side, "") for side in _sides(task))
    found: list[tuple[str, int]] = []
    for source in sources:
        draw = random.Random(f"{seed} {source}")  # noqa: S311 - a seeded draw
        queries, positives, others = _read(data / source, task)
        for prefix, length, given in (
            (query, recipe.query_tokens, queries),
            (key, recipe.key_tokens, positives),
            (key, recipe.key_tokens, others),
        ):
            found += [(prefix + text, length) for text in draw.sample(given, min(each, len(given)))]
    return found


def _read(path: Path, task: str) -> tuple[list[str], list[str], list[str]]:
    """Training queries, what answers them, and other candidates."""
    if path.suffix == ".jsonl":
        rows = [as_row(record) for record in read_rows(path, task)]
        return (
            [row.query for row in rows],
            [text for row in rows for text in row.pos],
            [text for row in rows for text in row.neg],
        )
    collection = read_collection(path)
    queries = collection.split("train")
    gold = {identity for query in queries for identity in query.positives}
    known = dict(zip(collection.ids, collection.texts, strict=True))
    return (
        [query.text for query in queries],
        [text for identity, text in known.items() if identity in gold],
        [text for identity, text in known.items() if identity not in gold],
    )


def _batches(texts: Sequence[tuple[str, int]], tokenizer: Any, size: int = 32) -> Iterator[Mapping[str, Tensor]]:
    """Padded batches, shortest texts first."""
    ids = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text, length in texts]
    ids.sort(key=len)
    for start in range(0, len(ids), size):
        yield tokenizer.pad({"input_ids": ids[start : start + size]}, return_tensors="pt")


def _recipe_of(model: Checkpoint) -> Recipe:
    path = model.folder / RECIPE_FILE
    if not path.is_file():
        raise InputError(f"{model.name} has no {RECIPE_FILE}, which names the texts of its tasks; train it first.")
    return Recipe.load(path)


def _check(
    base: Checkpoint, runs: Mapping[str, Sequence[Checkpoint]], recipe: Recipe, weights: Mapping[str, float]
) -> None:
    """Refuse tasks that the recipe does not name, weights that are none, and experts that are not of one family."""
    for task in (*runs, *weights):
        if task not in recipe.tasks:
            raise InputError(f"{base.name} was not trained for {task!r}; its tasks are {', '.join(recipe.tasks)}.")
    for task, weight in weights.items():
        if not weight > 0:
            raise InputError(f"The weight of {task} must be above 0, got {weight}.")
    backbone = Lineage.of(base).backbone
    for models in runs.values():
        for model in models:
            whence = Lineage.of(model).backbone
            if whence != backbone:
                raise InputError(
                    f"Only models of one backbone can be merged: {base.name} was trained from {backbone!r}, "
                    f"{model.name} from {whence!r}."
                )


def _prefixes(base: Checkpoint, runs: Mapping[str, Sequence[Checkpoint]], recipe: Recipe) -> Mapping[str, str]:
    """Each task's prefixes: its experts', or the model's own."""
    own = {side: base.prompts.get(side, "") for task in recipe.tasks for side in _sides(task)}
    theirs: dict[str, str] = {}
    for task, models in runs.items():
        theirs |= agreed_prefixes([{side: model.prompts.get(side, "") for side in _sides(task)} for model in models])
    return base.prompts if theirs.items() <= own.items() else {**base.prompts, **own, **theirs}


def _sides(task: str) -> tuple[str, str]:
    return f"{task}_query", f"{task}_key"


def _training(
    base: Checkpoint, runs: Mapping[str, Sequence[Checkpoint]], weights: Mapping[str, float], merged: Embedder
) -> dict[str, Any]:
    """How the model came to be: rows and rewards of a task are those of its expert's first run."""
    lineage = reduce(Lineage.beside, (Lineage.of(run) for models in runs.values() for run in models), Lineage.of(base))
    trainings = {task: told_of(runs.get(task, [base])[0]) for task in weights}
    return {
        "start": base.name,
        **asdict(lineage),
        "experts": {task: [run.name for run in models] for task, models in runs.items()},
        "weights": dict(weights),
        "fingerprints": {task: merged.view(task).fingerprint for task in weights},
        **{
            part: {task: of_task[part][task] for task, of_task in trainings.items() if task in of_task.get(part, {})}
            for part in ("data", "rewards")
        },
    }


def _card(base: Checkpoint, runs: Mapping[str, Sequence[Checkpoint]], weights: Mapping[str, float]) -> str:
    rows = [
        f"| {task} ({find_task(task).role}) | {', '.join(run.name for run in runs.get(task, [base]))} | {weight:g} |"
        for task, weight in weights.items()
    ]
    return "\n".join(
        [
            *CARD_HEAD,
            "# One embedder of several",
            "",
            "Merged layer by layer with quadrieve (RegMean, arXiv 2212.09849), without training.",
            "",
            "| task | taken from | weight |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )
