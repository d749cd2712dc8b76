"""What is compared: rankings of a set's texts, by models and by what needs none."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadrieve import ViewLike
from quadrieve.index import Index
from quadrieve.index.filters import read_filter
from quadrieve.index.records import Record

from ..rows import Query
from .metrics import DEPTH
from .sets import Columns, EvalSet

#: Ids of what each query of a set finds, best first.
Rankings = list[list[str]]
System = Callable[[EvalSet], Rankings]


def recency(evaluated: EvalSet) -> Rankings:
    """What was said last comes first."""
    places = evaluated.collection.places or ()
    return [
        _ids(evaluated, sorted(evaluated.visible(query), key=lambda i: -places[i][1])) for query in evaluated.queries
    ]


def at_random(evaluated: EvalSet, seed: int = 13) -> Rankings:
    """Texts drawn for each query."""
    rankings = []
    for query in evaluated.queries:
        visible = evaluated.visible(query)
        draw = random.Random(f"{seed} {query.id}")  # noqa: S311 - a seeded draw
        chosen = draw.sample(range(len(visible)), min(DEPTH, len(visible)))
        rankings.append(_ids(evaluated, visible[chosen]))
    return rankings


def bm25(evaluated: EvalSet) -> Rankings:
    """Okapi BM25 (k1 1.2, b .75) over what a query may see."""
    import bm25s

    scopes: dict[str | None, tuple[Columns, Any]] = {}
    for conversation in evaluated.conversations:
        rows = evaluated.scope(conversation)
        model = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
        texts = [evaluated.collection.texts[i] for i in rows]
        if texts:
            model.index(bm25s.tokenize(texts, stopwords=None, show_progress=False), show_progress=False)
        scopes[conversation] = rows, model
    rankings = []
    for query in evaluated.queries:
        rows, model = scopes[query.conversation]
        (words,) = bm25s.tokenize([query.text], stopwords=None, return_ids=False, show_progress=False)
        known = [word for word in dict.fromkeys(words) if len(rows) and word in model.vocab_dict]
        scores = model.get_scores(known) if known else np.zeros(len(rows))
        rankings.append(_best(evaluated, query, rows, scores, positive=True))
    return rankings


def dense(view: ViewLike) -> System:
    """The cosines of a model."""

    def rank(evaluated: EvalSet) -> Rankings:
        encoded = _encoded(view, evaluated)
        keys = {
            conversation: encoded[np.searchsorted(evaluated.findable, evaluated.scope(conversation))]
            for conversation in evaluated.conversations
        }
        queries = view.embed_queries([query.text for query in evaluated.queries])
        return [
            _best(evaluated, query, evaluated.scope(query.conversation), keys[query.conversation] @ vector)
            for query, vector in zip(evaluated.queries, queries, strict=True)
        ]

    return rank


def hybrid(view: ViewLike) -> System:
    """The search by meaning and words of `quadrieve.index`, as the roles do it."""

    def rank(evaluated: EvalSet) -> Rankings:
        collection = evaluated.collection
        records = []
        for i, vector in zip(evaluated.findable.tolist(), _encoded(view, evaluated), strict=True):
            conversation, turn = collection.places[i] if collection.places else (None, 0)
            namespace = () if conversation is None else (conversation,)
            records.append(
                Record(collection.ids[i], collection.texts[i], {"turn": turn}, namespace=namespace, vector=vector)
            )
        with Index.open(None, view=view, role=evaluated.role, name="evaluation") as index:
            index.write(records)
            return [
                [
                    hit.id
                    for hit in index.search(
                        query.text,
                        10,
                        namespace=None if query.conversation is None else (query.conversation,),
                        filter=None if query.turn is None else read_filter({"turn": {"$lt": query.turn}}),
                    )
                ]
                for query in evaluated.queries
            ]

    return rank


def _encoded(view: ViewLike, evaluated: EvalSet) -> NDArray[np.float32]:
    """Vectors of the rows that some query may find: one call, whatever the number of conversations."""
    return view.embed_keys([evaluated.collection.texts[i] for i in evaluated.findable])


def within_task(rankings: Sequence[Sequence[str]], evaluated: EvalSet, task_of: Mapping[str, str]) -> Rankings:
    """Of each ranking, only examples of the query's own task."""
    return [
        [id for id in ranking if task_of.get(id) == query.meta.get("pool", query.meta.get("task"))]
        for ranking, query in zip(rankings, evaluated.queries, strict=True)
    ]


def _best(
    evaluated: EvalSet, query: Query, rows: Columns, scores: NDArray[Any], *, positive: bool = False
) -> list[str]:
    """The first hundred of a scope that the query may see; a tie goes to the earlier row."""
    visible = evaluated.visible(query)
    allowed = np.isin(rows, visible) if len(visible) < len(rows) else np.ones(len(rows), dtype=bool)
    if positive:
        allowed &= scores > 0
    order = np.lexsort((rows, -scores))
    return _ids(evaluated, rows[order[allowed[order]]][:DEPTH])


def _ids(evaluated: EvalSet, rows: Sequence[int] | Columns) -> list[str]:
    return [evaluated.collection.ids[int(i)] for i in rows[:DEPTH]]
