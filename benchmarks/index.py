"""Speed, recall and growth of the index, beside langchain-chroma with the same vectors in one run.

Example: python benchmarks/index.py --data ../shared/data --records 5000 --max 10000 --json index.json

Give vectors of your own by --vectors FILE.npy [n, dim] and --texts FILE.json (a list of n strings): the first are
the records, the last --queries the queries. Without them, the texts of --data (`*/corpus.jsonl`) are embedded.
Every store is built in one fresh process and measured in another, queries one after the other. A hit counts for
recall if it is at least as near as the tenth nearest by brute force. A word's records are read from disk when it is
first asked for, so hybrid search is measured twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from quadrieve import Embedder, Index, Record, Role, Tool, Toolbox
from quadrieve.index.filters import read_filter
from quadrieve.index.generation import Generation

Vectors = NDArray[np.float32]
Where = dict[str, str]

K = 10
WARM_UP = 20
GROWTH = (1_000, 10_000, 100_000, 1_000_000)
TOOLS = 10_000
BYTES_A_RECORD = 6_000  # of memory that a store takes at most while it is built
PAGE = 20_000

#: Metadata key, and one in how many records a filter on it lets through.
SELECTIVITY = {"half": 2, "tenth": 10, "tenant": 1_000, "owner": 10_000}
FULL = ("all", *SELECTIVITY, "namespace", "hybrid", "hybrid again", "hybrid in a namespace")
SHORT = ("all", "hybrid", "hybrid again")


class _Precomputed:
    """An embedder and view that embeds nothing: it knows the vectors of the texts that it will be asked for."""

    fingerprint = "0" * 64

    def __init__(self, texts: Iterable[str], vectors: Vectors) -> None:
        self.dim = int(vectors.shape[1])
        self._rows = dict(zip(texts, vectors, strict=True))

    def view(self, task: str) -> _Precomputed:
        return self

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        return np.stack([self._rows[text] for text in texts])

    embed_keys = embed_queries

    def explain(self, text: str, side: str = "query") -> str:
        return text


class _Inputs:
    """Records and queries in a folder, for the processes that measure."""

    def __init__(self, folder: Path) -> None:
        self.vectors: Vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        self.queries: Vectors = np.load(folder / "queries.npy")
        self.texts: list[str] = json.loads((folder / "texts.json").read_text(encoding="utf-8"))
        self.query_texts: list[str] = json.loads((folder / "query_texts.json").read_text(encoding="utf-8"))

    @staticmethod
    def write(folder: Path, vectors: Vectors, texts: list[str], queries: Vectors, query_texts: list[str]) -> Path:
        folder.mkdir(parents=True)
        np.save(folder / "vectors.npy", vectors)
        np.save(folder / "queries.npy", queries)
        (folder / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
        (folder / "query_texts.json").write_text(json.dumps(query_texts), encoding="utf-8")
        return folder

    def metadata(self, i: int) -> dict[str, Any]:
        return {key: f"{key}-{i % parts}" for key, parts in SELECTIVITY.items()}


class _Ours:
    """quadrieve.Index in a folder; a record also lies in the namespace of its tenant."""

    def __init__(self, inputs: _Inputs, folder: Path) -> None:
        self.inputs = inputs
        self.index = self.open(folder, _Precomputed(inputs.query_texts, inputs.queries))

    def open(self, folder: Path, view: _Precomputed) -> Index:
        return Index.open(folder, view=view, role=Role.KNOWLEDGE)

    def build(self) -> None:
        texts, vectors = self.inputs.texts, self.inputs.vectors
        for start in range(0, len(texts), PAGE):
            self.index.write([self.record(i, texts[i], vectors[i]) for i in _page(start, len(texts))])

    def record(self, i: int, text: str, row: Vectors) -> Record:
        metadata = self.inputs.metadata(i)
        return Record(str(i), text, metadata, namespace=(metadata["tenant"],), vector=row)

    def search(self, case: str, vector: Vectors, text: str, where: Where | None) -> list[int]:
        query = text if case.startswith("hybrid") else vector
        if case.endswith("namespace"):
            assert where is not None
            hits = self.index.search(query, K, namespace=(where["tenant"],))
        else:
            hits = self.index.search(query, K, filter=read_filter(where))
        return [int(hit.id) for hit in hits]

    def close(self) -> None:
        self.index.close()


class _Beside(_Ours):
    """All that quadrieve keeps beside Chroma, and no Chroma: building its graph takes too long at large sizes."""

    def open(self, folder: Path, view: _Precomputed) -> Index:
        folder.mkdir(exist_ok=True)
        store: Any = _Standalone(folder, view.dim)  # it cannot be rebuilt, and need not
        return Index(store, view)


class _Standalone(Generation):
    """A generation that Chroma knows nothing of, as a store for an index."""

    version = None

    def __init__(self, folder: Path, dim: int) -> None:
        super().__init__(_NoChroma(), folder, dim)  # type: ignore[arg-type]  # what it asks of Chroma is answered

    def check(self, view: object) -> None:
        """There is but one view here."""

    def put(self, records: Any, hashes: Any, vectors: Any, view: object = None) -> None:
        super().put(records, hashes, vectors)

    def close(self) -> None:
        self.settle()

    def _chroma_stamp(self) -> str:
        return "none"


class _NoChroma:
    """Takes what it is given."""

    batch_size = 5_000

    def put(self, *_: object) -> None:
        """Forget it."""

    def ids(self) -> list[str]:
        return []


class _LangChain:
    """langchain_chroma.Chroma in a folder: cosine, and its defaults."""

    def __init__(self, inputs: _Inputs, folder: Path) -> None:
        import chromadb
        from chromadb.config import Settings
        from langchain_chroma import Chroma

        self.inputs = inputs
        self.client = chromadb.PersistentClient(folder, Settings(anonymized_telemetry=False))
        self.store = Chroma(
            client=self.client,
            embedding_function=_given(inputs.vectors),
            collection_configuration={"hnsw": {"space": "cosine"}},
        )

    def build(self) -> None:
        texts, step = self.inputs.texts, self.client.get_max_batch_size()
        for start in range(0, len(texts), step):
            numbers = _page(start, len(texts), step)
            self.store.add_texts(
                [texts[i] for i in numbers],
                metadatas=[self.inputs.metadata(i) for i in numbers],
                ids=[str(i) for i in numbers],
            )

    def search(self, case: str, vector: Vectors, text: str, where: Where | None) -> list[int]:
        found = self.store.similarity_search_by_vector_with_relevance_scores(vector.tolist(), K, filter=where)
        return [int(document.id or -1) for document, _ in found]

    def close(self) -> None:
        close: Any = getattr(self.client, "close")  # noqa: B009  # its interface does not name it
        close()


def _given(vectors: Vectors) -> Any:
    """A langchain Embeddings that hands out given rows in order."""
    from langchain_core.embeddings import Embeddings

    class _Rows(Embeddings):
        done = 0

        def embed_documents(self, texts: list[str]) -> list[list[float]]:
            rows = list(np.asarray(vectors[self.done : self.done + len(texts)]))
            self.done += len(texts)
            return rows  # Chroma takes rows as they are, which spares it time

        def embed_query(self, text: str) -> list[float]:
            return self.embed_documents([text])[0]

    return _Rows()


STORES: dict[str, Any] = {"quadrieve": _Ours, "langchain-chroma": _LangChain, "quadrieve without Chroma": _Beside}


def _page(start: int, n: int, step: int = PAGE) -> range:
    return range(start, min(start + step, n))


def _build(store: str, inputs: _Inputs, folder: Path) -> dict[str, float]:
    """Index all records; the first search and closing count, as work may be put off until then."""
    start = time.perf_counter()
    opened = STORES[store](inputs, folder)
    opened.build()
    opened.search("all", inputs.queries[0], inputs.query_texts[0], None)
    opened.close()
    return {"build_s": time.perf_counter() - start, "disk_mb": _size(folder) / 1e6}


def _serve(store: str, inputs: _Inputs, folder: Path, cases: Sequence[str]) -> dict[str, Any]:
    """Open a closed store and search it."""
    before = _resident()
    start = time.perf_counter()
    opened = STORES[store](inputs, folder)
    opened_s = time.perf_counter() - start
    opened.search("all", inputs.queries[0], inputs.query_texts[0], None)
    first_s = time.perf_counter() - start
    answered = {case: _search(opened, inputs, case) for case in cases}
    memory = (_resident() - before) / 1e6
    opened.close()
    searches = {case: _figures(inputs, case, *answered[case]) for case in cases}
    return {"open_s": opened_s, "first_hit_s": first_s, "memory_mb": memory, "searches": searches}


def _search(store: Any, inputs: _Inputs, case: str) -> tuple[list[float], list[list[int]]]:
    """Milliseconds and hits of one search after the other."""
    key = _key(case)
    parts = SELECTIVITY[key] if key else 1
    times: list[float] = []
    found: list[list[int]] = []
    for q, (vector, text) in enumerate(zip(inputs.queries, inputs.query_texts, strict=True)):
        where = None if key is None else {key: f"{key}-{q % parts}"}
        start = time.perf_counter()
        found.append(store.search(case, vector, text, where))
        times.append((time.perf_counter() - start) * 1e3)
    return times, found


def _key(case: str) -> str | None:
    """The metadata key that a case filters on."""
    return case if case in SELECTIVITY else "tenant" if case.endswith("namespace") else None


def _figures(inputs: _Inputs, case: str, times: list[float], found: list[list[int]]) -> dict[str, float]:
    """Percentiles, and the recall of a search by meaning alone."""
    p50, p95 = np.percentile(times[WARM_UP:], [50, 95])
    row = {"p50_ms": float(p50), "p95_ms": float(p95)}
    key = _key(case)
    if not case.startswith("hybrid"):
        row["recall"] = _recall(inputs, found, SELECTIVITY[key] if key else 1)
    return row


def _recall(inputs: _Inputs, found: Sequence[Sequence[int]], parts: int) -> float:
    """Recall@10 where query q may find every record i with i % parts == q % parts."""
    shares = []
    for q, (ids, vector) in enumerate(zip(found, inputs.queries, strict=True)):
        cosines = inputs.vectors[q % parts :: parts] @ vector
        if len(cosines):
            k = min(K, len(cosines))
            tenth = np.partition(cosines, -k)[-k]
            near = inputs.vectors[np.array(ids, dtype=np.int64)] @ vector >= tenth - 1e-6
            shares.append(min(k, int(near.sum())) / k)
    return float(np.mean(shares))


def _tools(inputs: _Inputs, n: int, folder: Path) -> dict[str, float]:
    """Time to select five of n tools, the request being embedded."""
    described = [Tool(f"tool_{i}", text[:300]) for i, text in enumerate(inputs.texts[:n])]
    texts = [*(tool.describe() for tool in described), *inputs.query_texts]
    view = _Precomputed(texts, np.concatenate([inputs.vectors[:n], inputs.queries]))
    times = []
    with Toolbox.open(folder, embedder=view) as box:
        box.register(described)
        for text in inputs.query_texts:
            start = time.perf_counter()
            box.select(text, k=5)
            times.append((time.perf_counter() - start) * 1e3)
    p50, p95 = np.percentile(times[WARM_UP:], [50, 95])
    return {"tools": n, "p50_ms": float(p50), "p95_ms": float(p95)}


def _resident() -> int:
    """Bytes of memory that this process has at hand, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _in_fresh_process(*words: object) -> dict[str, Any]:
    done = subprocess.run([sys.executable, __file__, "--step", *map(str, words)], stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.decode().strip().splitlines()[-1])
    return figures


def _step(kind: str, inputs: str, folder: str, store: str = "", cases: str = "") -> dict[str, Any]:
    """What `_in_fresh_process` asks for, everything imported: an embedder has loaded torch as well."""
    import chromadb  # noqa: F401  # imported for the time it takes
    import torch  # noqa: F401  # imported for the time it takes

    given, place = _Inputs(Path(inputs)), Path(folder)
    if kind == "build":
        return _build(store, given, place)
    if kind == "serve":
        return _serve(store, given, place, cases.split(","))
    return _tools(given, min(TOOLS, len(given.texts)), place)


def _measure(store: str, inputs: Path, cases: Sequence[str]) -> dict[str, Any]:
    """Build and serve, each in a process of its own; the store is removed."""
    print(f"… {store}, {inputs.name}", file=sys.stderr)
    with tempfile.TemporaryDirectory(dir=inputs.parent) as folder:
        place = Path(folder) / "store"
        built = _in_fresh_process("build", inputs, place, store)
        return built | _in_fresh_process("serve", inputs, place, store, ",".join(cases))


def _corpora(data: Path, n: int) -> list[str]:
    """Up to n different texts, in an order that mixes the corpora."""
    rows = (line for file in sorted(data.glob("*/corpus.jsonl")) for line in file.open(encoding="utf-8"))
    texts = sorted({json.loads(row)["text"] for row in rows})
    random.Random(0).shuffle(texts)
    return texts[:n]


def _inputs_of(args: argparse.Namespace) -> tuple[Vectors, list[str], Vectors, list[str]]:
    """Vectors and texts of records and of queries."""
    if args.vectors and args.texts:
        vectors: Vectors = np.load(args.vectors, mmap_mode="r")
        texts: list[str] = json.loads(args.texts.read_text(encoding="utf-8"))
    elif args.data:
        texts = _corpora(args.data, args.records + args.queries)
        vectors = Embedder.load(max_length=args.tokens).view("qa").embed_keys(texts, progress=True)
        asked = [" ".join(text.split()[: args.tokens]) for text in texts[-args.queries :]]
        texts = [*texts[: -args.queries], *asked]
    else:
        raise SystemExit("Give --vectors and --texts, or --data; see --help.")
    n = min(args.records, len(texts) - args.queries)
    return vectors[:n], texts[:n], np.asarray(vectors[-args.queries :]), texts[-args.queries :]


def _random_rows(n: int, dim: int, seed: int) -> Vectors:
    """Random unit rows: nothing is near anything, the worst case of every approximate search."""
    return _unit(np.random.default_rng(seed).standard_normal((n, dim), dtype=np.float32))


def _grown(vectors: Vectors, n: int) -> Vectors:
    """N rows; beyond those there are, the same again with a little noise."""
    times = -(-n // len(vectors))
    rows = np.tile(vectors, (times, 1))[:n]
    noise = np.random.default_rng(0).standard_normal((n - len(vectors[:n]), rows.shape[1]), dtype=np.float32)
    rows[len(vectors) :] += 0.3 * noise / np.float32(np.sqrt(rows.shape[1]))
    return _unit(rows)


def _unit(rows: Vectors) -> Vectors:
    scaled: Vectors = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return scaled


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vectors", type=Path, help="float32 unit rows, .npy")
    parser.add_argument("--texts", type=Path, help="one string a row, .json")
    parser.add_argument("--data", type=Path, help="folder of corpora, where no vectors are given")
    parser.add_argument(
        "--tokens", type=int, help="of each text of --data to embed, and to ask; all that the model reads if not given"
    )
    parser.add_argument("--records", type=int, default=100_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--max", type=int, default=1_000_000, help="largest size of the growth table")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--step", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(_step(*args.step)))
        return
    vectors, texts, queries, query_texts = _inputs_of(args)
    n, dim = vectors.shape
    report: dict[str, Any] = {"records": n, "dim": dim, "queries": len(queries), "k": K}
    with tempfile.TemporaryDirectory() as folder:
        real = _Inputs.write(Path(folder) / "real", vectors, texts, queries, query_texts)
        wild = _Inputs.write(
            Path(folder) / "random", _random_rows(n, dim, 1), texts, _random_rows(len(queries), dim, 2), query_texts
        )
        dense = [case for case in FULL if case in SELECTIVITY or case == "all"]
        report["real"] = {"quadrieve": _measure("quadrieve", real, FULL)}
        report["real"]["langchain-chroma"] = _measure("langchain-chroma", real, dense)
        report["random"] = {
            store: _measure(store, wild, ["all", "tenth"]) for store in ("quadrieve", "langchain-chroma")
        }
        report["tools"] = _in_fresh_process("tools", real, Path(folder) / "tools")
        report["growth"] = _growth(Path(folder), vectors, texts, queries, query_texts, args.max, report)
    _show(report)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


def _growth(
    folder: Path,
    vectors: Vectors,
    texts: list[str],
    queries: Vectors,
    query_texts: list[str],
    largest: int,
    report: dict[str, Any],
) -> list[dict[str, Any]]:
    """The same at other sizes; a size that is left out says why."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    rows = []
    for n in GROWTH:
        store = "quadrieve" if n <= len(texts) else "quadrieve without Chroma"
        row: dict[str, Any] = {"records": n, "store": store}
        if n == len(texts):
            row |= report["real"]["quadrieve"]
        elif n > largest:
            row["left_out"] = f"beyond --max {largest}"
        elif n * BYTES_A_RECORD > memory:
            row["left_out"] = f"needs {n * BYTES_A_RECORD / 1e9:.0f} GB of memory, the machine has {memory / 1e9:.0f}"
        else:
            repeated = (texts * -(-n // len(texts)))[:n]
            inputs = _Inputs.write(folder / f"{n:,} records", _grown(vectors, n), repeated, queries, query_texts)
            row |= _measure(store, inputs, SHORT)
        rows.append(row)
    return rows


def _show(report: dict[str, Any]) -> None:
    n, k = report["records"], report["k"]
    for kind in ("real", "random"):
        sides = report[kind]
        print(f"\n{n:,} {kind} vectors of {report['dim']} numbers, k={k}, {report['queries']} queries\n")
        print(f"{'':<24}{'build s':>9}{'ratio':>7}{'open s':>8}{'first hit s':>13}{'memory MB':>11}{'disk MB':>9}")
        base = sides["langchain-chroma"]["build_s"]
        for store, row in sides.items():
            print(
                f"{store:<24}{row['build_s']:>9.1f}{row['build_s'] / base:>7.2f}{row['open_s']:>8.2f}"
                f"{row['first_hit_s']:>13.2f}{row['memory_mb']:>11.0f}{row['disk_mb']:>9.0f}"
            )
        print(f"\n{'search':<24}{'ours p50':>10}{'p95 ms':>8}{'recall':>8}{'theirs p50':>12}{'p95 ms':>8}{'recall':>8}")
        for case, row in sides["quadrieve"]["searches"].items():
            print(f"{_name(case):<24}{_timed(row, 10)}{_timed(sides['langchain-chroma']['searches'].get(case), 12)}")
    searches = report["real"]["quadrieve"]["searches"]
    ratios = [searches[case]["p95_ms"] / searches["all"]["p95_ms"] for case in ("hybrid again", "hybrid")]
    print(
        f"\nHybrid takes {ratios[0]:.2f} x dense (p95), and {ratios[1]:.2f} x where words are asked for the first time."
    )
    box = report["tools"]
    print(f"A toolbox of {box['tools']:,} tools selects in {box['p50_ms']:.1f} ms, p95 {box['p95_ms']:.1f} ms.")
    print(
        f"\n{'records':>9}  {'store':<26}{'build s':>9}{'open s':>8}{'dense p95 ms':>14}{'recall':>8}"
        f"{'hybrid p95 ms':>15}{'memory MB':>11}{'disk MB':>9}"
    )
    for row in report["growth"]:
        print(f"{row['records']:>9,}  {row['store']:<26}", end="")
        if "left_out" in row:
            print(f"left out: {row['left_out']}")
            continue
        dense, hybrid = row["searches"]["all"], row["searches"]["hybrid"]
        print(
            f"{row['build_s']:>9.1f}{row['open_s']:>8.2f}{dense['p95_ms']:>14.2f}{dense['recall']:>8.3f}"
            f"{hybrid['p95_ms']:>15.2f}{row['memory_mb']:>11.0f}{row['disk_mb']:>9.0f}"
        )


def _name(case: str) -> str:
    if case in SELECTIVITY:
        return f"one in {SELECTIVITY[case]:,} (filter)"
    return "one in 1,000 (namespace)" if case == "namespace" else case


def _timed(row: dict[str, float] | None, width: int) -> str:
    if row is None:
        return f"{'-':>{width}}{'-':>8}{'-':>8}"
    recalled = f"{row['recall']:>8.3f}" if "recall" in row else f"{'-':>8}"
    return f"{row['p50_ms']:>{width}.2f}{row['p95_ms']:>8.2f}{recalled}"


if __name__ == "__main__":
    main()
