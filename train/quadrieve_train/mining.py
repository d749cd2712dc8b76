"""Hard negatives: candidates that look right to a ranker and are not labelled so."""

from __future__ import annotations

import json
import os
import random
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import astuple, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from tqdm import tqdm

from quadrieve import Role, find_task
from quadrieve.errors import InputError, StoreError

from .rows import Collection, Query, Row, content_hash, from_rows, read_rows, write_lines, write_rows

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray

    from quadrieve import ViewLike

Method = Literal["bm25", "dense", "both"]
Among = Literal["corpus", "positives"]


def mine(
    collection: Collection,
    task: str,
    *,
    method: Method = "both",
    view: ViewLike | None = None,
    split: str = "train",
    limit: int | None = None,
    among: Among = "corpus",
    depth: int = 200,
    keep: int = 100,
    margin: float = 0.95,
    drop_answers: bool = True,
    seed: int = 13,
    folder: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Dataset:
    """Rows for the queries of a split, each with its positives and up to `keep` hard negatives.

    The `depth` best of each ranker are taken, known positives and copies of their text are removed, then what scores
    at least `margin` times as high as the query's best positive (likely an unlabelled one), then what contains an
    answer. `keep` are drawn from the rest. In a collection with conversations only earlier rows
    of the same conversation are candidates. Without labelled positives nothing is filtered: the candidates are for a
    language model to judge.

    A text that no query of the split is answered by is only ever wrong here. Taught so, it is pushed away from every
    query, from those of other splits and of later that it does answer too: tools never seen in training are lost that
    way. `among="positives"` draws negatives only from what some query of the split is answered by.

    Args:
        collection: Corpus and queries.
        task: Name of the task.
        method: Rank by BM25, by the backbone, or take both lists.
        view: The backbone's view of the task; needed unless `method` is `bm25`.
        split: Which queries.
        limit: Mine for that many queries, drawn at random.
        among: What negatives are drawn from: the whole corpus, or the positives of the split's queries.
        depth: Candidates taken from each ranker.
        keep: Negatives kept a query.
        margin: Share of the best positive's score from which a candidate is too good to be a negative; the backbone
            judges where it is asked, else BM25. `inf` keeps all.
        drop_answers: Drop candidates that contain an answer, unless answers come from a closed set.
        seed: Draws are the same for the same seed, whatever was done before.
        folder: Where finished parts are kept; a run that was stopped goes on there, with nothing ranked twice.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: If an option does not fit, or the split has no queries.
        StoreError: If the folder holds what was mined from other data or with other options.
    """
    if method not in ("bm25", "dense", "both"):
        raise InputError(f"Unknown mining method {method!r}; expected 'bm25', 'dense' or 'both'.")
    if among not in ("corpus", "positives"):
        raise InputError(f"Negatives are drawn among 'corpus' or 'positives', got {among!r}.")
    if method != "bm25" and view is None:
        raise InputError(f"method={method!r} ranks with the backbone; pass its view, or method='bm25'.")
    if keep < 1 or depth < 1 or margin <= 0:
        raise InputError(f"depth and keep must be at least 1 and margin above 0, got {depth}, {keep} and {margin}.")
    name = find_task(task).name
    queries = _choose(collection.split(split), limit, seed)
    if not queries:
        splits = ", ".join(sorted({query.split for query in collection.queries})) or "none"
        raise InputError(f"{collection.name} has no queries in split {split!r}; it has {splits}.")
    pool: set[str] | None = None
    if among == "positives":
        pool = {identity for query in collection.split(split) for identity in query.positives}
        if not pool:
            raise InputError(f"No query of {collection.name} in split {split!r} has positives; mine among='corpus'.")
    options = [method, split, limit, depth, keep, margin, drop_answers, seed, view.fingerprint if view else None]
    rankers = _Rankers(collection, method, view if method != "bm25" else None, depth, pool)

    def rows(part: Iterable[Query]) -> Iterator[Row]:
        for query in part:
            row = _row(collection, query, name, rankers, keep, margin, drop_answers, seed)
            if row is not None:
                yield row

    if folder is None:
        return from_rows(rows(tqdm(queries, desc=f"Mining {collection.name}", disable=not progress)))
    root = Path(folder)
    corpus = [collection.ids, collection.texts, collection.titles, collection.places]
    asked = [astuple(replace(query, meta={})) for query in queries]
    _check_manifest(root, content_hash(options, name, corpus, asked, sorted(pool or ())))
    parts: list[Path] = []
    for start in tqdm(range(0, len(queries), 256), desc=f"Mining {collection.name}", disable=not progress):
        part = root / f"part-{start // 256:05d}.jsonl"
        if not part.exists():
            write_rows(rows(queries[start : start + 256]), part)
        parts.append(part)
    return read_rows([part for part in parts if part.stat().st_size], cache_dir=str(root / "arrow"))


def _choose(queries: list[Query], limit: int | None, seed: int) -> list[Query]:
    if limit is None or limit >= len(queries):
        return queries
    chosen = random.Random(f"{seed} queries").sample(range(len(queries)), limit)  # noqa: S311 - a seeded draw
    return [queries[i] for i in sorted(chosen)]


def _row(
    collection: Collection,
    query: Query,
    task: str,
    rankers: _Rankers,
    keep: int,
    margin: float,
    drop_answers: bool,
    seed: int,
) -> Row | None:
    """The query's row, or None where nothing is left to learn from."""
    positives = [rankers.index[identity] for identity in query.positives]
    texts = collection.texts
    known = {_normal(texts[i]) for i in positives} | {_normal(query.text)}
    answers = [] if query.choices or not drop_answers or not positives else [_normal(a) for a in query.answers]
    negatives: list[int] = []
    for i in rankers.candidates(query, positives, margin):
        text = _normal(texts[i])
        if text not in known and not any(_contains(text, answer) for answer in answers):
            negatives.append(i)
            known.add(text)
    if len(negatives) > keep:
        draw = random.Random(f"{seed} {query.id}")  # noqa: S311 - a seeded draw
        negatives = [negatives[i] for i in sorted(draw.sample(range(len(negatives)), keep))]
    if not positives and not negatives:
        return None
    row = Row(
        task=task,
        query=query.text,
        pos=tuple(dict.fromkeys(texts[i] for i in positives)),
        neg=tuple(texts[i] for i in negatives),
        query_id=f"{collection.name}/{query.id}",
        answers=query.answers,
        choices=query.choices,
    )
    names = [collection.titles[i] for i in positives]
    if find_task(task).role is Role.TOOL and names and all(names):
        others = [name for name in dict.fromkeys(collection.titles[i] for i in negatives) if name]
        return _with_calls(row, names, others, seed)
    return row


def _with_calls(row: Row, names: Sequence[str], others: Sequence[str], seed: int) -> Row:
    """The desired output of a request is the right tools' names; the closed set has as many wrong ones each."""
    draw = random.Random(f"{seed} calls {row.query_id}")  # noqa: S311 - a seeded draw
    size = min(len(names), len(others))
    wrong = [", ".join(draw.sample(others, size)) for _ in range(32)] if others else []
    return replace(row, answers=(", ".join(names),), choices=tuple(dict.fromkeys((", ".join(names), *wrong))))


class _Rankers:
    """BM25 and the backbone over one collection, or over each conversation of it."""

    def __init__(
        self,
        collection: Collection,
        method: Method,
        view: ViewLike | None,
        depth: int,
        pool: Set[str] | None,
    ) -> None:
        self.collection = collection
        self.index = {identity: i for i, identity in enumerate(collection.ids)}
        self._method, self._view, self._depth = method, view, depth
        self._scopes: dict[str | None, _Scope] = {}
        self._pool = [i for i, identity in enumerate(collection.ids) if pool is None or identity in pool]
        self._members: dict[str, list[int]] = {}
        if collection.places is not None:
            for i in self._pool:
                self._members.setdefault(collection.places[i][0], []).append(i)

    def candidates(self, query: Query, positives: Sequence[int], margin: float) -> list[int]:
        """Corpus rows that a ranker finds for the query and that are not too good to be wrong, best first."""
        scope = self._scope(query)
        if not len(scope.rows):
            return []
        places = self.collection.places
        may = [query.turn is None or places is None or places[i][1] < query.turn for i in scope.rows.tolist()]
        visible = np.array(may, dtype=bool)
        scores = [scope.bm25(query.text)] if self._method != "dense" else []
        if self._view is not None:
            scores.append(scope.dense(self._view, query.text))
        judge = scores[-1]  # the backbone where there is one: cosines compare better than BM25 scores do
        own = np.isin(scope.rows, positives)
        fine = judge < margin * judge[own & visible].max() if (own & visible).any() else np.ones_like(visible)
        found: dict[int, None] = {}
        for ranked in scores if self._method == "both" else scores[-1:]:
            seen = np.where(visible, ranked, -np.inf)
            best = np.lexsort((scope.rows, -seen))[: self._depth]
            found |= dict.fromkeys(int(scope.rows[i]) for i in best if visible[i] and fine[i] and ranked[i] > 0)
        return list(found)

    def _scope(self, query: Query) -> _Scope:
        key = query.conversation if self.collection.places is not None else None
        if key not in self._scopes:
            rows = self._members.get(key, []) if key is not None else self._pool
            self._scopes[key] = _Scope(np.array(rows, dtype=np.int64), [self.collection.texts[i] for i in rows])
        return self._scopes[key]


class _Scope:
    """Texts that are ranked together; each ranker is built when it is first asked."""

    def __init__(self, rows: NDArray[np.int64], texts: list[str]) -> None:
        self.rows = rows
        self._texts = texts
        self._bm25: Any = None
        self._vectors: NDArray[np.float32] | None = None

    def bm25(self, query: str) -> NDArray[np.float32]:
        import bm25s

        if self._bm25 is None:
            self._bm25 = bm25s.BM25()
            self._bm25.index(bm25s.tokenize(self._texts, show_progress=False), show_progress=False)
        (words,) = bm25s.tokenize(query, return_ids=False, show_progress=False)
        known = [word for word in words if word in self._bm25.vocab_dict]
        scores = self._bm25.get_scores(known) if known else np.zeros(len(self.rows))
        return np.asarray(scores, dtype=np.float32)

    def dense(self, view: ViewLike, query: str) -> NDArray[np.float32]:
        if self._vectors is None:
            self._vectors = view.embed_keys(self._texts)
        cosines: NDArray[np.float32] = self._vectors @ view.embed_queries([query])[0]
        return cosines


def _check_manifest(root: Path, content: str) -> None:
    root.mkdir(parents=True, exist_ok=True)
    manifest = root / "mined.json"
    if not manifest.exists():
        write_lines([json.dumps({"content": content}) + "\n"], manifest)
    elif json.loads(manifest.read_text(encoding="utf-8")).get("content") != content:
        raise StoreError(
            f"{str(root)!r} holds rows that were mined from other data or with other options; name another folder."
        )


def _normal(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.lower()))


def _contains(text: str, answer: str) -> bool:
    """Whether the answer's words stand in the text, whole and in order."""
    return bool(answer) and f" {answer} " in f" {text} "
