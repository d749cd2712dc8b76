"""Runs an experiment's arms, each once for a seed, and keeps what it found."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from quadrieve import Embedder

from ..evaluation.metrics import retrieval_metrics
from ..evaluation.sets import EvalSet
from ..evaluation.systems import bm25, dense
from ..pipeline import Trained, open_lm, train
from ..recipes import Recipe
from ..rows import content_hash
from .arms import Arm, Experiment
from .samples import Size, measured_set, refuse_leaks, training_rows

#: NDCG@10 of each test query, by task.
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
        `arms`: for each arm and seed its figures, losses by task and seconds; `untrained`: figures of the starting
        weights and of BM25; `flat`: share of labelled rows whose rewards are all alike, by file of rows.

    Raises:
        LeakError: If a test query is in the training rows.
    """
    tasks = dict.fromkeys(task for arm in experiment.arms.values() for task in arm.recipe.tasks)
    sources = {task: sources[task] for task in tasks}
    tests = {task: measured_set(data, sources[task], task, size) for task in tasks}
    open_once = cache(lambda name: open_lm(name, max_length=256))
    rows = {
        pair: training_rows(data, sources, pair[1], pair[0], open_once, folder, size, progress=progress)
        for pair in dict.fromkeys((arm.recipe.lm, arm.reward) for arm in experiment.arms.values())
    }
    for made in rows.values():
        refuse_leaks(tests, made.folder)
    untrained = {
        f"start ({model})": _measure(Embedder.load(model), tests)
        for model in dict.fromkeys(arm.recipe.model for arm in experiment.arms.values())
    }
    untrained["BM25"] = {task: _ndcg(test, bm25(test)) for task, test in tests.items()}
    arms: dict[str, dict[str, Any]] = {name: {} for name in experiment.arms}
    work = [(name, seed) for name in experiment.arms for seed in size.seeds]
    for name, seed in tqdm(work, desc="Runs", disable=not progress):
        arm = experiment.arms[name]
        arms[name][str(seed)] = _run_arm(arm, seed, rows[arm.recipe.lm, arm.reward].folder, folder, tests)
    flat = {name: share for made in rows.values() for name, share in made.flat.items()}
    return {"arms": arms, "untrained": untrained, "flat": flat}


def _run_arm(arm: Arm, seed: int, rows: Path, folder: Path, tests: Mapping[str, EvalSet]) -> dict[str, Any]:
    recipe = replace(arm.recipe, seed=seed)
    asked = {task: [test.collection.ids, [query.id for query in test.queries]] for task, test in tests.items()}
    own = folder / "runs" / content_hash(recipe.to_yaml(), rows.name, asked)[:16]
    kept = own / "figures.json"
    if not kept.is_file():
        began = time.perf_counter()
        trained = train(recipe, rows, own / "model", work=own / "work", use_cpu=True)
        found = {"losses": _losses(trained, recipe), "seconds": time.perf_counter() - began}
        found["figures"] = _measure(Embedder.load(trained.folder), tests)
        staged = kept.with_suffix(".part")
        staged.write_text(json.dumps(found) + "\n", encoding="utf-8")
        staged.replace(kept)
        shutil.rmtree(own / "work")  # the checkpoints are four times the model
    result: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return result


def _losses(trained: Trained, recipe: Recipe) -> dict[str, list[float]]:
    """The loss of each step that saw the task."""
    lines = [entry for entry in trained.history if "loss" in entry]
    return {task: [entry[f"loss/{task}"] for entry in lines if f"loss/{task}" in entry] for task in recipe.tasks}


def _measure(embedder: Embedder, tests: Mapping[str, EvalSet]) -> Figures:
    return {task: _ndcg(test, dense(embedder.view(task))(test)) for task, test in tests.items()}


def _ndcg(test: EvalSet, rankings: list[list[str]]) -> list[float]:
    return retrieval_metrics(rankings, [query.positives for query in test.queries])["ndcg@10"]
