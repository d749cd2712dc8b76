"""A query engine over real passages, beside LlamaIndex's stock one on the same weights, in one run.

Stock is `VectorStoreIndex` over `ChromaVectorStore` with `HuggingFaceEmbedding`; ours is `QuadrieveRetriever`. DIR has
`squad/corpus.jsonl` and `squad/queries.jsonl`; the test questions are asked, whose passages are among those indexed.
Both store the same passages with the same vectors, which HuggingFaceEmbedding made; each embeds the questions itself.
Quality is LlamaIndex's own `RetrieverEvaluator`'s; times are of `query_engine.query` without a language model, each
question put to one engine after the other. Memory is the peak of a fresh process with one and with four roles.
Exit status 1 if a bar is missed.

Example: python benchmarks/llama_index_engine.py --data DIR --json llama_index.json
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from llama_index.core.schema import TextNode
from peak_memory import peak_mb
from tqdm import tqdm

from quadrieve import Embedder, KnowledgeBase, checkpoint

METRICS = ("hit_rate", "mrr", "ndcg")
ROLES = ("knowledge", "memory", "example", "tool")
LIBRARIES = ("quadrieve", "HuggingFaceEmbedding")
STOCK, OURS = "stock", "quadrieve, hybrid"
SLOWER = 1.1  # what a query may take at most, in the stock engine's time


def read(folder: Path, passages: int) -> tuple[list[TextNode], dict[str, list[str]]]:
    """Passages, those with an answer first, and the test questions with the ids of theirs."""
    corpus, queries = (
        [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]
        for name in ("corpus.jsonl", "queries.jsonl")
    )
    asked = {row["text"]: row["positives"] for row in queries if row["split"] == "test"}
    gold = {id for positives in asked.values() for id in positives}
    chosen = sorted(corpus, key=lambda row: row["id"] not in gold)[:passages]
    kept = {row["id"] for row in chosen}
    nodes = [TextNode(id_=row["id"], text=row["text"]) for row in chosen]
    return nodes, {text: positives for text, positives in asked.items() if set(positives) <= kept}


def stock_embedding() -> Any:
    """HuggingFaceEmbedding of the packaged weights."""
    from llama_index.embeddings.huggingface import HuggingFaceEmbedding

    return HuggingFaceEmbedding(str(checkpoint.find("minilm").folder), device="cpu")


def embed(nodes: Sequence[TextNode], embedding: Any, cache: Path | None) -> None:
    """Give each node its vector; what a cache holds already is not embedded again."""
    for start in tqdm(range(0, len(nodes), 64), desc="passages", unit="batch", disable=None):
        batch = nodes[start : start + 64]
        texts = [node.text for node in batch]
        name = hashlib.sha256("\0".join(texts).encode()).hexdigest()[:16]
        file = None if cache is None else cache / f"{name}.npy"
        if file is not None and file.exists():
            rows = np.load(file)
        else:
            rows = np.asarray(embedding.get_text_embedding_batch(texts), dtype=np.float32)
            if file is not None:
                file.parent.mkdir(parents=True, exist_ok=True)
                np.save(file, rows)
        for node, row in zip(batch, rows, strict=True):
            node.embedding = row.tolist()


def retrievers(nodes: Sequence[TextNode], embedding: Any, folder: Path, kb: KnowledgeBase, k: int) -> dict[str, Any]:
    """The stock retriever, and ours, over the same passages on disk."""
    import chromadb
    from llama_index.core import StorageContext, VectorStoreIndex
    from llama_index.vector_stores.chroma import ChromaVectorStore

    from llama_index_quadrieve import QuadrieveRetriever, QuadrieveVectorStore

    collection = chromadb.PersistentClient(folder).create_collection("squad")
    context = StorageContext.from_defaults(vector_store=ChromaVectorStore(collection))
    index = VectorStoreIndex(list(nodes), storage_context=context, embed_model=embedding)
    QuadrieveVectorStore(kb).add(nodes)
    return {
        STOCK: index.as_retriever(similarity_top_k=k),
        "quadrieve, dense": QuadrieveRetriever(kb, k, mode="dense"),
        OURS: QuadrieveRetriever(kb, k),
    }


def quality(retriever: Any, asked: Mapping[str, list[str]]) -> dict[str, list[float]]:
    """Each metric of each question."""
    from llama_index.core.evaluation import RetrieverEvaluator

    evaluator = RetrieverEvaluator.from_metric_names(list(METRICS), retriever=retriever)

    async def evaluate() -> list[dict[str, float]]:
        return [(await evaluator.aevaluate(text, ids)).metric_vals_dict for text, ids in asked.items()]

    results = asyncio.run(evaluate())
    return {metric: [result[metric] for result in results] for metric in METRICS}


def milliseconds(found: Mapping[str, Any], questions: Sequence[str]) -> dict[str, list[float]]:
    """Times of each engine, with each question asked of all engines in turn, in an order that rotates."""
    from llama_index.core.llms import MockLLM
    from llama_index.core.query_engine import RetrieverQueryEngine
    from llama_index.core.response_synthesizers.no_text import NoText

    silent = NoText(llm=MockLLM())
    engines = {name: RetrieverQueryEngine(retriever, silent) for name, retriever in found.items()}
    names = list(engines)
    for name in names:
        for question in questions[:5]:
            engines[name].query(question)
    times: dict[str, list[float]] = {name: [] for name in names}
    for i, question in enumerate(questions):
        for name in names[i % len(names) :] + names[: i % len(names)]:
            start = time.perf_counter()
            engines[name].query(question)
            times[name].append(1000 * (time.perf_counter() - start))
    return times


def interval(differences: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """95 % of the means of resampled questions."""
    rows = np.asarray(differences)
    means = [rows[sample].mean() for sample in np.random.default_rng(seed).integers(0, len(rows), (2000, len(rows)))]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def embed_in_roles(library: str, roles: int) -> float:
    """Peak megabytes of this process, which must be fresh, after each role embedded a question and a passage."""
    if library == "quadrieve":
        from llama_index_quadrieve import QuadrieveEmbedding

        embeddings = [QuadrieveEmbedding("minilm", role=role) for role in ROLES[:roles]]
    else:
        embeddings = [stock_embedding() for _ in ROLES[:roles]]
    for embedding in embeddings:
        embedding.get_query_embedding("Where does honey come from?")
        embedding.get_text_embedding("Bees make honey from nectar.")
    return peak_mb()


def peaks() -> dict[str, dict[int, float]]:
    """Peak megabytes of each library with one role and with four, each in a fresh process."""

    def fresh(library: str, roles: int) -> float:
        command = [sys.executable, __file__, "--roles", f"{library}:{roles}"]
        return float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-1])

    return {library: {roles: fresh(library, roles) for roles in (1, len(ROLES))} for library in LIBRARIES}


def main() -> int:
    """Run all of it and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="the folder that holds squad/")
    parser.add_argument("--passages", type=int, default=2000)
    parser.add_argument("--questions", type=int, default=500, help="at most so many of the test questions")
    parser.add_argument("--k", type=int, default=10, help="nodes that a query finds")
    parser.add_argument("--cache", type=Path, help="keep the passages' vectors here, to go on after a stop")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--roles", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.roles:
        library, roles = args.roles.split(":")
        print(embed_in_roles(library, int(roles)))
        return 0
    if args.data is None or not (args.data / "squad" / "corpus.jsonl").is_file():
        parser.error(f"--data is {args.data}, expected a folder that holds squad/corpus.jsonl.")

    nodes, answered = read(args.data / "squad", args.passages)
    asked = dict(list(answered.items())[: args.questions])
    embedding = stock_embedding()
    embed(nodes, embedding, args.cache)
    with (
        tempfile.TemporaryDirectory() as folder,
        KnowledgeBase.open(Path(folder, "quadrieve"), embedder=Embedder.load("minilm")) as kb,
    ):
        found = retrievers(nodes, embedding, Path(folder, "stock"), kb, args.k)
        times = milliseconds(found, list(asked))
        scores = {name: quality(retriever, asked) for name, retriever in found.items()}

    print(f"{len(nodes)} passages, {len(asked)} questions, {args.k} nodes a query, all-MiniLM-L6-v2\n")
    print(f"| | {' | '.join(f'{metric}@{args.k}' for metric in METRICS)} | ms p50 / p95 | ratio of means |")
    print("|---|---|---|---|---|---|")
    ratios = {name: float(np.mean(row) / np.mean(times[STOCK])) for name, row in times.items()}
    for name, row in scores.items():
        means = " | ".join(f"{np.mean(row[metric]):.3f}" for metric in METRICS)
        p50, p95 = np.percentile(times[name], [50, 95])
        print(f"| {name} | {means} | {p50:.1f} / {p95:.1f} | {ratios[name]:.2f} |")
    gains = {metric: np.subtract(scores[OURS][metric], scores[STOCK][metric]) for metric in METRICS}
    print("\nhybrid over stock, with 95 % intervals over questions:")
    for metric, gain in gains.items():
        low, high = interval(gain)
        print(f"  {metric} {gain.mean():+.3f} [{low:+.3f}, {high:+.3f}]")
    memory = peaks()
    print("\n| peak MB of a process | one role | four roles |\n|---|---|---|")
    for library, row in memory.items():
        print(f"| {library} | {row[1]:.0f} | {row[len(ROLES)]:.0f} |")
    bars = {"hybrid is ahead in " + metric: bool(gain.mean() > 0) for metric, gain in gains.items()}
    bars[f"a hybrid query takes at most {SLOWER} of the stock time"] = ratios[OURS] <= SLOWER
    print()
    for bar, reached in bars.items():
        print(f"{'reached' if reached else 'MISSED '}  {bar}")
    if args.json:
        figures = {
            "passages": len(nodes),
            "questions": len(asked),
            "quality": {
                name: {metric: float(np.mean(row[metric])) for metric in METRICS} for name, row in scores.items()
            },
            "gain": {metric: [float(gain.mean()), *interval(gain)] for metric, gain in gains.items()},
            "ms": {name: {"mean": float(np.mean(row)), "p50": float(np.median(row))} for name, row in times.items()},
            "ratio": ratios,
            "peak_mb": memory,
            "bars": bars,
        }
        args.json.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
