"""Runs an experiment's arms, each once for a seed, and keeps what it found."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quadrieve import Embedder
from quadrieve.errors import InputError

from ..evaluation.metrics import retrieval_metrics
from ..evaluation.reading import SHOWN, Reader
from ..evaluation.sets import EvalSet, shrink
from ..evaluation.systems import System, bm25, dense
from ..pipeline import Trained, open_lm, train
from ..recipes import Recipe
from ..rewards import RewardStore
from ..rows import content_hash
from .arms import Arm, Experiment, read_by, start
from .samples import PLAIN, Size, measured_set, pairs, refuse_leaks, training_rows

#: A figure of each test query, by task or set: higher is better.
Figures = dict[str, list[float]]


def run(
    experiment: Experiment,
    data: Path,
    sources: Mapping[str, str],
    folder: Path,
    size: Size,
    *,
    progress: bool = False,
) -> dict[str, Any]:
    """Label, train and measure what is not there yet.

    Args:
        experiment: What is compared.
        data: Folder of the collections.
        sources: Collection of each task.
        folder: Where rows, rewards and runs are kept; experiments that share it share what they have in common.
        size: How small it is.
        progress: Show progress on stderr.

    Returns:
        `tasks` that are measured; `arms`: for each arm and seed its figures, losses by task and seconds; `untrained`:
        figures of the starting weights and of BM25; `flat`: share of labelled rows whose rewards are all alike, by
        file of rows.

    Raises:
        InputError: If there is nothing to measure.
        LeakError: If a test query is in the training rows.
    """
    tasks = dict.fromkeys(task for arm in experiment.arms.values() for task in arm.recipe.tasks)
    sources = {task: experiment.sources.get(task) or sources[task] for task in tasks}
    sampled = {task: measured_set(data, sources[task], task, size) for task in tasks}
    tests = {task: test for task, test in sampled.items() if test.queries}
    if not tests:
        raise InputError(f"No task of {data} has queries of the split {size.split!r} with positives to be found.")
    measured = list(tests)
    tests |= {
        name: shrink(pairs(data, s, size.split), size.test_queries, None) for name, s in experiment.outside.items()
    }
    open_once = cache(partial(open_lm, max_length=256))
    rows = {
        pair: training_rows(data, sources, pair[1], pair[0], open_once, folder, size, progress=progress)
        for pair in dict.fromkeys((arm.recipe.lm, arm.reward) for arm in experiment.arms.values())
    }
    for made in rows.values():
        refuse_leaks(tests, made.folder)
    with RewardStore(folder / "read") as store:
        readers = {lm: Reader(open_lm(lm, max_length=1536), store) for lm in experiment.readers}
        measure = partial(_measure, tests, readers, size.read_queries)
        untrained = {
            start(model): measure(_dense(Embedder.load(model)))
            for model in dict.fromkeys(arm.recipe.model for arm in experiment.arms.values())
        }
        untrained["BM25"] = measure(bm25)
        arms: dict[str, dict[str, Any]] = {name: {} for name in experiment.arms}
        work = [(name, seed) for name in experiment.arms for seed in size.seeds]
        for name, seed in tqdm(work, desc="Runs", disable=not progress):
            arm = experiment.arms[name]
            before = arms[arm.after][str(seed)]["run"] if arm.after else ""
            own = rows[arm.recipe.lm, arm.reward].folder
            arms[name][str(seed)] = _run_arm(arm, seed, before, own, folder / "runs", tests, measure)
    flat = {name: share for made in rows.values() for name, share in made.flat.items()}
    return {"tasks": measured, "arms": arms, "untrained": untrained, "flat": flat}


def _run_arm(
    arm: Arm,
    seed: int,
    before: str,
    rows: Path,
    runs: Path,
    tests: Mapping[str, EvalSet],
    measure: Callable[[System], Figures],
) -> dict[str, Any]:
    """Train and measure; what was trained once is not trained again, whatever is measured of it."""
    recipe = replace(arm.recipe, seed=seed)
    run = content_hash(recipe.to_yaml(), rows.name, before)[:16]
    own = runs / run
    log = own / "log.json"
    if not log.is_file():
        began = time.perf_counter()
        from_before = replace(recipe, model=str(runs / before / "model")) if before else recipe
        trained = train(from_before, rows, own / "model", work=own / "work", use_cpu=True)
        _write(log, {"losses": _losses(trained, recipe), "seconds": time.perf_counter() - began})
        shutil.rmtree(own / "work")  # the checkpoints are four times the model
    asked = {name: [test.collection.ids, [query.id for query in test.queries]] for name, test in tests.items()}
    kept = own / f"figures-{content_hash(asked)[:12]}.json"
    if not kept.is_file():
        _write(kept, measure(_dense(Embedder.load(own / "model"))))
    return {"run": run, "figures": _read(kept), **_read(log)}


def _write(path: Path, content: Any) -> None:
    staged = path.with_suffix(".part")
    staged.write_text(json.dumps(content) + "\n", encoding="utf-8")
    staged.replace(path)


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _losses(trained: Trained, recipe: Recipe) -> dict[str, list[float]]:
    """The loss of each step that saw the task."""
    lines = [entry for entry in trained.history if "loss" in entry]
    return {task: [entry[f"loss/{task}"] for entry in lines if f"loss/{task}" in entry] for task in recipe.tasks}


def _dense(embedder: Embedder) -> System:
    return lambda test: dense(embedder.view(test.task))(test)


def _measure(tests: Mapping[str, EvalSet], readers: Mapping[str, Reader], read_queries: int, system: System) -> Figures:
    """NDCG@10 of each test query, and the log-likelihood of its answer for those that are read for."""
    figures: Figures = {}
    for name, test in tests.items():
        rankings = system(test)
        figures[name] = retrieval_metrics(rankings, [query.positives for query in test.queries])["ndcg@10"]
        for lm, reader in readers.items() if test.task != PLAIN.name else ():
            part = replace(test, queries=test.queries[:read_queries])
            found = reader.read(part, rankings, SHOWN[test.role][0])["nll"]
            figures[read_by(name, lm)] = [-value for value in found]
    return figures
