"""What experiments train on and measure: small samples of collections."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..collating import draw_candidates
from ..evaluation.sets import EvalSet, check_no_leak, row_queries, shrink
from ..lm import LanguageModel
from ..mining import mine
from ..rewards import LabelOptions, RewardKind, RewardStore, label, reward_health
from ..rows import Row, as_row, content_hash, read_collection, read_rows, write_rows


@dataclass(frozen=True)
class Size:
    """How small an experiment is.

    Attributes:
        train_queries: Training queries of each task.
        labelled: How many of them the language model labels.
        test_queries: Test queries of each task.
        keys: Texts that they search, where they do not belong to conversations.
        seeds: Seeds of the runs.
        split: What is measured.
    """

    train_queries: int = 100
    labelled: int = 8
    test_queries: int = 60
    keys: int = 300
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
            mined = mine(
                read_collection(data / source), task, method="bm25", limit=size.train_queries, depth=50, keep=15
            )
            rows = [draw_candidates(row, 4, f"label {row.query_id}") for row in map(as_row, mined)]
            chosen = [row for row in rows if row.answers and row.answers[0].strip()][: size.labelled]
            options = LabelOptions(kind=kind, outputs=5, max_new_tokens=8, chat=False)
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
    collection = read_collection(data / source)
    queries = tuple(query for query in collection.split(size.split) if query.positives)
    return shrink(EvalSet(collection.name, task, collection, queries), size.test_queries, size.keys)


def refuse_leaks(tests: Mapping[str, EvalSet], rows: Path) -> None:
    """Check that no test query is in the training rows of a folder.

    Raises:
        LeakError: If one is.
    """
    for file in sorted(rows.glob("*.jsonl")):
        dataset: Any = read_rows(file)
        for evaluated in tests.values():
            check_no_leak(evaluated, row_queries(dataset), file.name)
