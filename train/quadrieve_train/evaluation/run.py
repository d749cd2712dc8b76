"""An evaluation from models and folders to a report."""

from __future__ import annotations

import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quadrieve import Embedder, Role
from quadrieve.checkpoint import RECIPE_FILE
from quadrieve.errors import InputError, ModelError

from ..lineage import Lineage
from ..lm import LanguageModel
from ..recipes import Recipe
from ..rewards import RewardStore
from ..rows import content_hash, read_collection, read_rows
from . import systems as ways
from .cache import CachedView, VectorCache
from .metrics import retrieval_metrics
from .paper_sets import from_hub, paper_sets, read_paper_set
from .reading import SHOWN, Reader
from .report import Report, summarise
from .sets import EvalSet, check_no_leak, read_paper_rows, read_set, row_queries, shrink, spread, training_queries


def find_sets(
    data: Path, names: Sequence[str] | None, *, split: str, queries: int | None, keys: int | None = None
) -> list[EvalSet]:
    """The sets of a folder: subfolders with `queries.jsonl`, files of the paper's rows, and the paper's own sets.

    Args:
        data: The folder; `paper` for the paper's sets from the hub.
        names: Which sets; None for all.
        split: Which queries.
        queries: The first that many of each set; None for all.
        keys: Texts of each corpus drawn at random, positives always among them; None for all.

    Raises:
        InputError: If a named set is not there, or there is none.
    """
    if data == Path("paper") and not data.exists():
        data = from_hub()
    there = {path.parent.name: path.parent for path in sorted(data.glob("*/queries.jsonl"))}
    there |= {path.name: path for path in sorted(data.glob("*.jsonl"))}
    papers = paper_sets(data)
    there |= papers
    unknown = [name for name in names or () if name not in there]
    if unknown or not there:
        raise InputError(
            f"{data} has no set {unknown[0]!r}; it has {', '.join(there) or 'none'}."
            if unknown
            else f"{data} has no sets: expected folders with corpus.jsonl and queries.jsonl, .jsonl files of rows, or "
            "the paper's folders, such as qa/popqa/test.json."
        )
    found = []
    for name in names or there:
        if name in papers:
            found.append(read_paper_set(data, name, queries=queries, keys=keys))
        elif there[name].is_file():
            found.append(shrink(read_paper_rows(there[name], queries=queries), None, keys))
        else:
            found.append(shrink(read_set(there[name], split=split, queries=queries), None, keys))
    return found


def evaluate(
    model: str,
    sets: Sequence[EvalSet],
    *,
    cache: Path,
    others: Sequence[str] = (),
    data: Path | None = None,
    lm: LanguageModel | None = None,
    lm_queries: int | None = 50,
    rows: Path | None = None,
    progress: bool = False,
) -> Report:
    """Measure a model on sets, beside what needs no model, its starting weights, its hybrid, and other models.

    Args:
        model: As `Embedder.load` takes it.
        sets: What it is measured on.
        cache: Folder in which vectors and the language model's scores are kept.
        others: Further models.
        data: Folder of the collections that a trained model's recipe names, to check that no query was trained on.
        lm: Reads what was found; None measures retrieval only.
        lm_queries: The language model reads for that many queries of a set, spread over it.
        rows: A file of training rows that no query may be in.
        progress: Show progress on stderr.

    Raises:
        InputError: If a set has no positives and no language model reads.
        LeakError: If a query was trained on.
    """
    for evaluated in sets:
        if lm is None and not any(query.positives for query in evaluated.queries):
            raise InputError(
                f"{evaluated.name} names no right texts, so only a language model can judge what was found."
            )
    main = Embedder.load(model)
    start = _check_training(main, sets, data, rows)
    named = {main.name: main}
    if start is not None:
        named["start: " + start.name] = start
    for other in others:
        loaded = Embedder.load(other)
        _check_training(loaded, sets, data, None)
        named[loaded.name if loaded.name not in named else str(other)] = loaded
    vectors, store = VectorCache(cache), RewardStore(cache / "lm")
    reader = Reader(lm, store) if lm is not None else None
    report: Report = {"model": main.name, "weights": main.view("qa").fingerprint, "lm": getattr(lm, "revision", None)}
    report["versions"] = {name: version(name) for name in ("quadrieve", "torch", "transformers")}
    report["sets"] = {}
    try:
        for evaluated in tqdm(sets, desc="Sets", disable=not progress):
            began = time.perf_counter()
            compared: dict[str, ways.System] = {}
            for name, embedder in named.items():
                compared[name] = ways.dense(CachedView(embedder.view(evaluated.task), vectors, progress=progress))
            compared["hybrid"] = ways.hybrid(CachedView(main.view(evaluated.task), vectors))
            compared["BM25"] = ways.bm25
            if evaluated.role is Role.MEMORY:
                compared["recency"] = ways.recency
            compared["random"] = ways.at_random
            rankings: dict[str, ways.Rankings | None] = {name: rank(evaluated) for name, rank in compared.items()}
            rankings["nothing"] = None
            values = {name: retrieval_values(evaluated, found) for name, found in rankings.items()}
            if reader is not None:
                for name, found in tqdm(rankings.items(), desc=evaluated.name, disable=not progress):
                    values[name] |= _reading(reader, evaluated, found, lm_queries)
            report["sets"][evaluated.name] = {
                "role": evaluated.role.value,
                "queries": len(evaluated.queries),
                "keys": len(evaluated.collection.ids),
                "content": content_hash(
                    [[query.id, query.text] for query in evaluated.queries], evaluated.collection.texts
                ),
                "seconds": round(time.perf_counter() - began, 2),
                "systems": summarise({name: found for name, found in values.items() if found}, main.name),
            }
    finally:
        vectors.close()
        store.close()
    return report


def retrieval_values(evaluated: EvalSet, rankings: ways.Rankings | None) -> dict[str, list[float]]:
    """Retrieval metrics of each query with gold; of tools, for requests with tools seen and unseen in training too."""
    gold = [query.positives for query in evaluated.queries]
    if rankings is None or not any(gold):
        return {}
    metrics: dict[str, list[float]] = retrieval_metrics(rankings, gold)
    unseen = [bool(query.meta.get("unseen_tools")) for query in evaluated.queries if query.positives]
    if evaluated.role is Role.TOOL and any(unseen) and not all(unseen):
        for kind, wanted in (("seen", False), ("unseen", True)):
            pairs = zip(metrics["ndcg@5"], unseen, strict=True)
            metrics[f"ndcg@5 {kind}"] = [value for value, is_unseen in pairs if is_unseen is wanted]
    return metrics


def _reading(
    reader: Reader, evaluated: EvalSet, rankings: ways.Rankings | None, limit: int | None
) -> dict[str, list[float]]:
    """What the language model makes of the best texts; of examples by task too, and with the query's own task only."""
    places = spread(len(evaluated.queries), limit)
    queries = tuple(evaluated.queries[i] for i in places)
    rankings = None if rankings is None else [rankings[i] for i in places]
    part = EvalSet(evaluated.name, evaluated.task, evaluated.collection, queries)
    found: dict[str, list[float]] = {}
    for shown in SHOWN[evaluated.role]:
        suffix = f"@{shown}" if len(SHOWN[evaluated.role]) > 1 else ""
        read = reader.read(part, rankings, shown)
        found |= {name + suffix: values for name, values in read.items()}
    if evaluated.role is Role.EXAMPLE:
        (shown,) = SHOWN[Role.EXAMPLE]
        for task in sorted({str(query.meta["task"]) for query in queries if "task" in query.meta}):
            chosen = [i for i, query in enumerate(queries) if query.meta.get("task") == task]
            own = EvalSet(part.name, part.task, part.collection, tuple(queries[i] for i in chosen))
            some = None if rankings is None else [rankings[i] for i in chosen]
            read = reader.read(own, some, shown)
            found |= {f"{name} {task}": values for name, values in read.items() if name != "nll"}
        task_of = evaluated.collection.tasks
        if rankings is not None and task_of:
            read = reader.read(part, ways.within_task(rankings, part, task_of), shown)
            found |= {f"{name} within task": values for name, values in read.items()}
    return found


def _check_training(
    embedder: Embedder, sets: Sequence[EvalSet], data: Path | None, rows: Path | None
) -> Embedder | None:
    """Check that nothing measured was trained on; the starting weights, where the model tells them."""
    if rows is not None:
        dataset: Any = read_rows(rows)
        for evaluated in sets:
            check_no_leak(evaluated, row_queries(dataset), str(rows))
    lineage = Lineage.of(embedder.checkpoint)
    for source in lineage.sources:
        place = (data or Path()) / source
        for evaluated in sets:
            if place.is_dir():
                check_no_leak(evaluated, training_queries(read_collection(place)), source)
            elif place.is_file():
                check_no_leak(evaluated, row_queries(read_rows(place)), source)
    recipe_file = embedder.checkpoint.folder / RECIPE_FILE
    if not recipe_file.is_file():
        return None
    recipe = Recipe.load(recipe_file)
    try:
        return Embedder.load(recipe.model, revision=recipe.revision)
    except ModelError:  # a model on the way from the backbone to this one need not be kept
        return Embedder.load(lineage.backbone)
