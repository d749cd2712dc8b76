"""What experiments train on and measure: small samples of collections."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from quadrieve import Role, Task, find_task, register_task

from ..collating import draw_candidates
from ..evaluation.sets import EvalSet, check_no_leak, row_queries, shrink
from ..lm import LanguageModel
from ..mining import mine
from ..rewards import LabelOptions, RewardKind, RewardStore, label, reward_health, template_for
from ..rows import Collection, Row, as_row, content_hash, read_collection, read_rows, write_rows

#: How pairs outside the four roles are embedded: as they are.
PLAIN = Task("plain", Role.KNOWLEDGE, "", "")


@dataclass(frozen=True)
class Size:
    """How small an experiment is.

    Attributes:
        train_queries: Training queries of each task.
        labelled: How many of them the language model labels.
        test_queries: Test queries of each task.
        keys: Texts that they search, where they do not belong to conversations.
        read_queries: Test queries of each task that language models read for.
        seeds: Seeds of the runs.
        split: What is measured.
    """

    train_queries: int = 100
    labelled: int = 8
    test_queries: int = 60
    keys: int = 300
    read_queries: int = 12
    seeds: tuple[int, ...] = (1, 2)
    split: str = "test"


@dataclass(frozen=True)
class Rows:
    """Training rows of several tasks in one folder.

    Attributes:
        folder: Where `TASK-REWARD.jsonl` lie.
        flat: Share of labelled rows whose rewards are all alike, by file.
    """

    folder: Path
    flat: Mapping[str, float]


def read_source(data: Path, source: str) -> Collection:
    """A collection below the data folder, or for `COLLECTION/TASK` the examples and queries of one of its tasks."""
    if (data / source / "queries.jsonl").is_file() or "/" not in source:
        return read_collection(data / source)
    whole, task = source.rsplit("/", 1)
    collection = read_collection(data / whole)
    kept = [i for i, identity in enumerate(collection.ids) if collection.tasks.get(identity) == task]
    ids = tuple(collection.ids[i] for i in kept)
    own = set(ids)
    return replace(
        collection,
        name=f"{collection.name}/{task}",
        ids=ids,
        texts=tuple(collection.texts[i] for i in kept),
        titles=tuple(collection.titles[i] for i in kept),
        queries=tuple(
            replace(query, positives=tuple(identity for identity in query.positives if identity in own))
            for query in collection.queries
            if query.meta.get("task") == task
        ),
    )


def tasks_within(data: Path, source: str) -> list[str]:
    """The sources `COLLECTION/TASK` of a collection whose queries name tasks."""
    collection = read_collection(data / source)
    return [
        f"{source}/{task}" for task in sorted({str(q.meta["task"]) for q in collection.queries if "task" in q.meta})
    ]


def many_sources(data: Path, examples: str) -> dict[str, tuple[str, str]]:
    """Task to be like, and source, of every task of a collection of examples and of every collection of tools."""
    found = dict.fromkeys(tasks_within(data, examples), "icl")
    for file in sorted(data.glob("*/info.json")):
        is_tools = json.loads(file.read_text(encoding="utf-8")).get("role") == Role.TOOL
        if is_tools and read_collection(file.parent).split("train"):
            found[file.parent.name] = "tool"
    return {re.sub(r"\W", "_", source.rsplit("/", 1)[-1]): (like, source) for source, like in found.items()}


def outside_sources(data: Path, examples: str, split: str = "test") -> dict[str, str]:
    """Tasks of a collection of examples whose outputs differ, by name."""
    return {
        f"{source.rsplit('/', 1)[-1]} outputs": source
        for source in tasks_within(data, examples)
        if outputs_differ(pairs(data, source, split))
    }


def training_rows(
    data: Path,
    sources: Mapping[str, str],
    kind: RewardKind,
    lm_name: str,
    open_lm: Callable[[str], LanguageModel],
    folder: Path,
    size: Size,
    *,
    progress: bool = False,
) -> Rows:
    """Mined rows of each task, some with rewards, made once.

    Args:
        data: Folder of collections.
        sources: Collection of each task.
        kind: Kind of reward.
        lm_name: The language model that labels.
        open_lm: Opens it.
        folder: Where rows and rewards are kept.
        size: How many.
        progress: Show progress on stderr.
    """
    own = folder / f"rows-{content_hash(dict(sources), size.train_queries, size.labelled, lm_name)[:12]}"
    flat: dict[str, float] = {}
    for task, source in sources.items():
        out = own / f"{task}-{kind}.jsonl"
        if not out.is_file():
            mined = mine(read_source(data, source), task, method="bm25", limit=size.train_queries, depth=50, keep=15)
            rows = [draw_candidates(row, 4, f"label {row.query_id}") for row in map(as_row, mined)]
            chosen = [row for row in rows if row.answers and row.answers[0].strip()][: size.labelled]
            template = template_for(find_task(find_task(task).role).name)
            options = LabelOptions(kind=kind, outputs=5, max_new_tokens=8, chat=False, templates={task: template})
            done: list[Row] = []
            if chosen:
                with RewardStore(folder / "rewards") as store:
                    done = [as_row(r) for r in label(chosen, open_lm(lm_name), store, options, progress=progress)]
            known = {row.query_id for row in chosen}
            write_rows([*done, *(row for row in rows if row.query_id not in known and row.pos)], out)
        dataset: Any = read_rows(out)
        rewarded = [row for row in map(as_row, dataset) if len(row.rewards) > 1]
        if rewarded:
            flat[out.stem] = reward_health(rewarded).flat_share
    return Rows(own, flat)


def measured_set(data: Path, source: str, task: str, size: Size) -> EvalSet:
    """Test queries with positives, over these and other texts drawn at random."""
    collection = read_source(data, source)
    queries = tuple(query for query in collection.split(size.split) if query.positives)
    return shrink(EvalSet(collection.name, task, collection, queries), size.test_queries, size.keys)


def pairs(data: Path, source: str, split: str) -> EvalSet:
    """Find what belongs to an input among all outputs: the solution of a problem, the translation of a sentence.

    Returns:
        A set whose queries are inputs and whose corpus is their first answers, embedded without a prefix.
    """
    register_task(PLAIN)
    collection = read_source(data, source)
    asked = [query for query in collection.split(split) if query.answers and query.answers[0].strip()]
    outputs = list(dict.fromkeys(query.answers[0] for query in asked))
    place = {output: str(i) for i, output in enumerate(outputs)}
    queries = tuple(replace(query, positives=(place[query.answers[0]],)) for query in asked)
    ids = tuple(place.values())
    return EvalSet(
        collection.name,
        PLAIN.name,
        Collection(collection.name, ids, tuple(outputs), ("",) * len(ids), None, queries),
        queries,
    )


def outputs_differ(evaluated: EvalSet, least: int = 4) -> bool:
    """Whether an output tells its input: labels of a closed set do not."""
    asked = len(evaluated.queries)
    return asked >= least and len(evaluated.collection.ids) >= 0.9 * asked


def refuse_leaks(tests: Mapping[str, EvalSet], rows: Path) -> None:
    """Check that no test query is in the training rows of a folder.

    Raises:
        LeakError: If one is.
    """
    for file in sorted(rows.glob("*.jsonl")):
        dataset: Any = read_rows(file)
        for evaluated in tests.values():
            check_no_leak(evaluated, row_queries(dataset), file.name)
