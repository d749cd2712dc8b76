"""Quality of hybrid search: NDCG@10 over retrieval sets, and finding a passage by an exact name.

Example: python benchmarks/hybrid.py --data ../shared/data --sets xquad_en sealtools --passages 2000 --json hybrid.json

A set is a folder with `corpus.jsonl`, `queries.jsonl` and its role in `info.json`; its test queries with gold are
asked, or those of another --split. Where rows have a conversation and a turn, a query sees the earlier turns of its own
conversation: a namespace and a filter. All searches go through one `quadrieve.Index`; BM25 is bm25s (Lucene's formula,
k1 1.2, b .75), and reciprocal rank fusion takes the first hundred of either with the constant 60. With --rates the
hybrid search is measured at each of them and nothing else is, to choose a model's `word_rates` on dev queries.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import bm25s
import ir_measures
import numpy as np

from quadrieve import Embedder, Index, Record, Role, ViewLike
from quadrieve.index.filters import read_filter
from quadrieve_train.evaluation.cache import CachedView, VectorCache

K = 10
POOL = 100
SYSTEMS = ("dense", "BM25", "RRF", "hybrid")
NAMED = 500

Ranker = Callable[["_Query"], list[str]]


@dataclass(frozen=True)
class _Query:
    id: str
    text: str
    gold: Sequence[str]
    conversation: str | None = None
    turn: int = 0


def _read(folder: Path, split: str, n: int) -> tuple[list[dict[str, Any]], list[_Query]]:
    """Corpus rows and the first n queries of a split with gold; of conversations only those asked about."""
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").open(encoding="utf-8")]
    known = {row["id"] for row in rows}
    queries = []
    for line in (folder / "queries.jsonl").open(encoding="utf-8"):
        query = json.loads(line)
        gold = [id for id in query["positives"] if id in known]
        if query["split"] == split and gold:
            meta = query["meta"]
            queries.append(_Query(query["id"], query["text"], gold, meta.get("conversation"), meta.get("turn", 0)))
    queries = queries[:n]
    asked = {query.conversation for query in queries}
    return [row for row in rows if row["meta"].get("conversation") in asked], queries


@contextmanager
def _index(rows: Sequence[dict[str, Any]], view: ViewLike, role: Role = Role.KNOWLEDGE) -> Iterator[Index]:
    with Index.open(None, view=view, role=role) as index:
        records = []
        for row, vector in zip(rows, view.embed_keys([row["text"] for row in rows]), strict=True):
            conversation, turn = row["meta"].get("conversation"), row["meta"].get("turn", 0)
            namespace = () if conversation is None else (conversation,)
            records.append(Record(row["id"], row["text"], {"turn": turn}, namespace=namespace, vector=vector))
        index.write(records, progress=True)
        yield index


def _through(index: Index, mode: Any, k: int) -> Ranker:
    def rank(query: _Query) -> list[str]:
        if query.conversation is None:
            hits = index.search(query.text, k, mode=mode)
        else:
            earlier = read_filter({"turn": {"$lt": query.turn}})
            hits = index.search(query.text, k, mode=mode, namespace=(query.conversation,), filter=earlier)
        return [hit.id for hit in hits]

    return rank


def _bm25(rows: Sequence[dict[str, Any]]) -> Ranker:
    """The first hundred of what a query may see."""
    words = bm25s.tokenize([row["text"] for row in rows], stopwords=None, show_progress=False)
    model = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    model.index(words, show_progress=False)
    ids = np.array([row["id"] for row in rows])
    turns = np.array([row["meta"].get("turn", 0) for row in rows])
    conversations = np.array([str(row["meta"].get("conversation")) for row in rows])

    def rank(query: _Query) -> list[str]:
        tokens = bm25s.tokenize([query.text], stopwords=None, return_ids=False, show_progress=False)[0]
        known = [token for token in dict.fromkeys(tokens) if token in model.vocab_dict]
        scores = model.get_scores(known) if known else np.zeros(len(ids))
        if query.conversation is not None:
            scores = np.where((conversations == query.conversation) & (turns < query.turn), scores, 0.0)
        order = np.argsort(-scores, kind="stable")[:POOL]
        return [str(id) for id in ids[order[scores[order] > 0]]]

    return rank


def _reciprocal_ranks(*rankings: Sequence[str]) -> list[str]:
    """Reciprocal rank fusion (Cormack et al., SIGIR 2009)."""
    scores: defaultdict[str, float] = defaultdict(float)
    for ranking in rankings:
        for rank, id in enumerate(ranking, start=1):
            scores[id] += 1 / (60 + rank)
    return sorted(scores, key=scores.__getitem__, reverse=True)


def _ndcg(queries: Sequence[_Query], rankings: Sequence[Sequence[str]]) -> float:
    gold = [ir_measures.Qrel(query.id, id, 1) for query in queries for id in query.gold]
    run = [
        ir_measures.ScoredDoc(query.id, id, -rank)
        for query, ranking in zip(queries, rankings, strict=True)
        for rank, id in enumerate(ranking[:K])
    ]
    measured = ir_measures.calc_aggregate([ir_measures.nDCG @ K], gold, run)
    return float(measured[ir_measures.nDCG @ K])


def _by_rate(
    rows: list[dict[str, Any]], queries: list[_Query], view: ViewLike, role: Role, rates: Sequence[float]
) -> dict[str, float]:
    """NDCG@10 by meaning, by words, and of the hybrid search at each rate."""
    view.embed_queries([query.text for query in queries])
    with _index(rows, view, role) as index:
        found = {mode: _ndcg(queries, list(map(_through(index, mode, K), queries))) for mode in ("dense", "lexical")}
        for rate in rates:
            index.fusion = replace(index.fusion, rate=rate)
            found[f"{rate:g}"] = _ndcg(queries, list(map(_through(index, "hybrid", K), queries)))
    return {"queries": len(queries)} | found


def _quality(rows: list[dict[str, Any]], queries: list[_Query], view: ViewLike, role: Role) -> dict[str, float]:
    """NDCG@10 of each system on a set."""
    view.embed_queries([query.text for query in queries])
    with _index(rows, view, role) as index:
        dense = list(map(_through(index, "dense", POOL), queries))
        hybrid = list(map(_through(index, "hybrid", K), queries))
    lexical = list(map(_bm25(rows), queries))
    fused = list(map(_reciprocal_ranks, dense, lexical))
    systems = zip(SYSTEMS, (dense, lexical, fused, hybrid), strict=True)
    return {"queries": len(queries)} | {system: _ndcg(queries, rankings) for system, rankings in systems}


CODES: dict[str, tuple[str, str]] = {
    "code": ("This is reported as {}.", "What does {} mean?"),
    "function": ("It is handled by {}.", "Where is {} used?"),
    "surname": ("It was noted by {}.", "What did {} note?"),
}


def _names(n: int, rng: random.Random) -> list[tuple[str, str]]:
    """Different names with their kind: error codes, functions, surnames; each like many others."""
    verbs = "parse read write merge flush load fetch split sort check".split()
    nouns = "invoice row cache token header batch index user price frame table node".split()
    syllables = "wan der ko vich stra mei ju lund bro ska zar qui pel tor hau".split()
    make = {
        "code": lambda: f"ERR-{rng.randrange(1000, 9999)}",
        "function": lambda: f"{rng.choice(verbs)}_{rng.choice(nouns)}_{rng.choice(nouns)}",
        "surname": lambda: "".join(rng.choices(syllables, k=3)).capitalize(),
    }
    found: dict[str, str] = {}
    while len(found) < n:
        kind = list(make)[len(found) % len(make)]
        found.setdefault(make[kind](), kind)
    return list(found.items())


def _plant(text: str, sentence: str) -> str:
    """A text with one more sentence in the middle."""
    sentences = re.split(r"(?<=[.!?]) ", text)
    middle = len(sentences) // 2
    return " ".join([*sentences[:middle], sentence, *sentences[middle:]])


def _by_name(texts: Sequence[str], view: ViewLike) -> dict[str, Any]:
    """Hit@1 of queries for a name that stands in one passage."""
    rng = random.Random(0)
    rows = [{"id": str(i), "text": text, "meta": {}} for i, text in enumerate(texts)]
    queries: list[_Query] = []
    kinds: list[str] = []
    named = _names(min(NAMED, len(texts) // 4), rng)
    for i, (name, kind) in zip(rng.sample(range(len(texts)), len(named)), named, strict=True):
        planted, question = CODES[kind]
        rows[i]["text"] = _plant(texts[i], planted.format(name))
        queries.append(_Query(str(len(queries)), question.format(name), [str(i)]))
        kinds.append(kind)
    view.embed_queries([query.text for query in queries])
    with _index(rows, view) as index:
        rankings = {mode: list(map(_through(index, mode, 1), queries)) for mode in ("dense", "lexical", "hybrid")}
    report: dict[str, Any] = {"passages": len(rows), "queries": len(queries)}
    for mode, found in rankings.items():
        right = np.array([ids[:1] == query.gold for ids, query in zip(found, queries, strict=True)])
        report[mode] = {"all": float(right.mean())}
        report[mode] |= {kind: float(right[np.array(kinds) == kind].mean()) for kind in CODES}
    return report


def _passages(data: Path, n: int) -> list[str]:
    """N different passages of at most 600 characters, in an order that mixes the corpora."""
    lines = (line for file in sorted(data.glob("*/corpus.jsonl")) for line in file.open(encoding="utf-8"))
    texts = sorted({json.loads(line)["text"][:600] for line in lines})
    random.Random(0).shuffle(texts)
    return texts[:n]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of retrieval sets")
    parser.add_argument("--sets", nargs="*", help="only these; 'none' for none")
    parser.add_argument("--model", default="minilm", help="what embeds")
    parser.add_argument("--split", default="test", help="whose queries")
    parser.add_argument("--rates", type=float, nargs="*", help="measure the hybrid search at these rates, and no more")
    parser.add_argument("--queries", type=int, default=300, help="of each set")
    parser.add_argument("--passages", type=int, default=50_000, help="among which a name is to be found; 0 for none")
    parser.add_argument("--cache", type=Path, help="folder to keep vectors in")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as unkept, closing(VectorCache(args.cache or Path(unkept))) as cache:
        report = _measure(args, cache)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _measure(args: argparse.Namespace, cache: VectorCache) -> dict[str, Any]:
    """Print the tables that were asked for."""
    embedder = Embedder.load(args.model)
    report: dict[str, Any] = {"sets": {}}
    print(f"NDCG@{K}, {embedder.name}, {args.split} queries\n")
    columns = ("dense", "lexical", *(f"{rate:g}" for rate in args.rates)) if args.rates else SYSTEMS
    heads = columns if args.rates else (*columns, "gain")
    print(f"{'':<22}{'queries':>8}" + "".join(f"{head:>9}" for head in heads))
    for folder in sorted(path.parent for path in args.data.glob("*/queries.jsonl")):
        if args.sets and folder.name not in args.sets:
            continue
        rows, queries = _read(folder, args.split, args.queries)
        if not queries:
            continue
        role = Role(json.loads((folder / "info.json").read_text(encoding="utf-8"))["role"])
        view = CachedView(embedder.view(role), cache)
        if args.rates:
            row = _by_rate(rows, queries, view, role, args.rates)
        else:
            row = _quality(rows, queries, view, role)
            row["gain"] = row["hybrid"] - max(row["dense"], row["BM25"])
        report["sets"][folder.name] = row
        figures = "".join(f"{row[column]:>9.3f}" for column in columns)
        figures += f"{row['gain']:>+9.3f}" if "gain" in row else ""
        print(f"{folder.name:<22}{row['queries']:>8}{figures}", flush=True)
    if args.rates:
        return report
    if report["sets"]:
        gains = [row["gain"] for row in report["sets"].values()]
        print(
            f"\nThe gain is over the better of dense and BM25: {np.mean(gains):+.3f} on average, "
            f"at least -0.01 on {sum(gain >= -0.01 for gain in gains)} "
            f"and above 0 on {sum(gain > 0 for gain in gains)} of {len(gains)} sets."
        )
    if args.passages:
        view = CachedView(embedder.view(Role.KNOWLEDGE), cache)
        report["by_name"] = named = _by_name(_passages(args.data, args.passages), view)
        print(f"\nHit@1 of {named['queries']} queries for a name among {named['passages']:,} passages\n")
        print(f"{'':<10}{'all':>9}" + "".join(f"{kind:>10}" for kind in CODES))
        for mode in ("dense", "lexical", "hybrid"):
            print(
                f"{mode:<10}" + f"{named[mode]['all']:>9.3f}" + "".join(f"{named[mode][kind]:>10.3f}" for kind in CODES)
            )
    return report


if __name__ == "__main__":
    main()
