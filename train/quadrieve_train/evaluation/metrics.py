"""Retrieval metrics of single queries, computed by `ir_measures`."""

from __future__ import annotations

from collections.abc import Sequence

import ir_measures
from ir_measures import RR, R, nDCG

#: How deep rankings go.
DEPTH = 100
_MEASURES = {f"ndcg@{k}": nDCG @ k for k in (3, 5, 10)} | {"mrr": RR, "recall@5": R @ 5, "recall@10": R @ 10}
#: Names of the metrics of `retrieval_metrics`.
METRICS = (*_MEASURES, "all@5", "all@10")


def retrieval_metrics(rankings: Sequence[Sequence[str]], gold: Sequence[Sequence[str]]) -> dict[str, list[float]]:
    """Metrics of each query with gold, by name: NDCG, MRR, recall, and `all@k`: whether all gold is in the first k.

    Args:
        rankings: Ids, best first, for each query.
        gold: Ids of what is right; queries without any are left out.

    Returns:
        For each name of `METRICS`, a value for each query that has gold.

    Example:
        >>> found = retrieval_metrics([["a", "b"]], [["b"]])
        >>> found["mrr"], found["all@5"]
        ([0.5], [1.0])
    """
    asked = [i for i, right in enumerate(gold) if right]
    qrels = [ir_measures.Qrel(str(i), doc, 1) for i in asked for doc in dict.fromkeys(gold[i])]
    run = [
        ir_measures.ScoredDoc(str(i), doc, -float(rank))
        for i in asked
        for rank, doc in enumerate(dict.fromkeys(rankings[i]))
    ]
    found: dict[str, dict[str, float]] = {name: {} for name in _MEASURES}
    names = {measure: name for name, measure in _MEASURES.items()}
    for value in ir_measures.iter_calc(list(_MEASURES.values()), qrels, run):
        found[names[value.measure]][value.query_id] = float(value.value)
    metrics = {name: [values.get(str(i), 0.0) for i in asked] for name, values in found.items()}
    for k in (5, 10):
        metrics[f"all@{k}"] = [float(set(gold[i]) <= set(rankings[i][:k])) for i in asked]
    return metrics
