"""The released model on test splits: what it finds beside its backbone and BM25, and what a language model makes of it.

With `--seeds`, single runs of `release.yaml` too, the first round of the released model; with `--specialists`, for each
role that recipe with the one task and its share of the steps. Both are trained here and shrunk to the same rank.
`one-1:full` is a run before that, `quadrieve:hybrid` the search by meaning and words. Everything is kept in FOLDER and
goes on where it was stopped; several processes may take different `--models` of one folder.

Example: python benchmarks/release.py --data data --folder runs --json release.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from quadrieve import Embedder, Role
from quadrieve_train import Recipe
from quadrieve_train.evaluation import systems as ways
from quadrieve_train.evaluation.cache import CachedView, VectorCache
from quadrieve_train.evaluation.reading import SHOWN, Reader
from quadrieve_train.evaluation.run import retrieval_values
from quadrieve_train.evaluation.sets import EvalSet, read_set, spread
from quadrieve_train.evaluation.sets import shrink as smaller
from quadrieve_train.evaluation.statistics import paired_bootstrap
from quadrieve_train.export import shrink
from quadrieve_train.pipeline import open_lm
from quadrieve_train.rewards import RewardStore

#: Sets by the task of their role, with the metric that is looked at; those of `UNTRAINED` no recipe may train on.
SETS = {
    "tool": ("sealtools", "metatool", "stabletoolbench"),
    "chat": ("irc_disentangle", "qmsum", "locomo"),
    "qa": ("medquad", "strategyqa_facts", "squad"),
    "icl": ("icl_mix", "natural_instructions"),
}
UNTRAINED = ("squad", "locomo", "natural_instructions")
METRIC = {"tool": "ndcg@5", "chat": "ndcg@10", "qa": "ndcg@10", "icl": "ndcg@10"}
#: Whose texts the language model is shown of each set, beside the model's own.
READING = {
    "irc_disentangle": ("BM25", "recency", "minilm"),
    "qmsum": ("BM25", "recency", "minilm"),
    "strategyqa_facts": ("BM25", "minilm"),
    "squad": ("BM25", "minilm"),
    "icl_mix": ("random", "BM25", "minilm"),
    "natural_instructions": ("minilm",),
}
#: What ranks without a model.
WITHOUT_MODEL = {"BM25": ways.bm25, "random": ways.at_random, "recency": ways.recency}
#: Requests of each tool set that the figures to beat are of (README of the training sets): the first of its test split.
FIRST = 400
#: The packaged default.
RELEASED = "quadrieve"
#: Its search by meaning and words.
HYBRID = f"{RELEASED}:hybrid"
#: Rank that changes are cut to, as `quadrieve shrink` does.
RANK = 128
Values = dict[str, list[float]]


def recipe_of(model: str) -> Recipe:
    """The recipe of `one-SEED`, or of a specialist, `TASK-SEED`."""
    kind, seed = model.rsplit("-", 1)
    recipe = replace(Recipe.load("release"), seed=int(seed))
    if kind == "one":
        return recipe
    share = (recipe.tasks[kind].weight or 0) / sum(task.weight or 0 for task in recipe.tasks.values())
    return replace(recipe.only([kind]), steps=round(recipe.steps * share))


def train(model: str, data: Path, folder: Path) -> None:
    """Train a model and shrink it, unless it is there."""
    whole, small, wanted = folder / model / "full", folder / model / "small", recipe_of(model).to_yaml()
    if not (whole / "recipe.yaml").is_file() or (whole / "recipe.yaml").read_text() != wanted:
        recipe = folder / f"{model}.yaml"
        recipe.write_text(wanted)
        command = [sys.executable, "-m", "quadrieve_train", "train", recipe, "--data", data, "--out", whole, "--cpu"]
        command += ["--mined", folder / "mined", "--rewards", folder / "rewards"]
        subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    if not (small / "recipe.yaml").is_file() or (small / "recipe.yaml").read_text() != wanted:
        shrink([whole], small, RANK, name=model)


class Figures:
    """Values of each test query by system, set and metric, kept in files."""

    def __init__(self, data: Path, folder: Path, keys: Mapping[str, int], lm_queries: Mapping[str, int]) -> None:
        self._data, self._folder, self._keys, self._lm_queries = data, folder, keys, lm_queries
        self._vectors = VectorCache(folder / "vectors")
        self._reader: Reader | None = None
        self.set = cache(self._read_set)

    def _read_set(self, name: str) -> EvalSet:
        return smaller(read_set(self._data / name), None, self._keys.get(name))

    def retrieval(self, system: str, name: str) -> Values:
        """Retrieval metrics of each query."""
        evaluated = self.set(name)
        if not any(query.positives for query in evaluated.queries):
            return {}
        return self._kept(system, name, "retrieval", lambda: retrieval_values(evaluated, self._rank(system, evaluated)))

    def reading(self, system: str, name: str, shown: int) -> Values:
        """What the language model makes of the first texts that were found."""
        label = f"reading.{shown}.{self.read_of(name)}"
        return self._kept(system, name, label, lambda: self._read(system, name, shown))

    def read_of(self, name: str) -> int | None:
        """How many queries the language model reads: a reply is scored and not written, so all of a memory set."""
        return None if self.set(name).role is Role.MEMORY else self._lm_queries.get(name, self._lm_queries.get("", 0))

    def _kept(self, system: str, name: str, what: str, make: Callable[[], Values]) -> Values:
        label = f"{self._known_as(system, name)}.{name}.{self._keys.get(name)}.{what}"
        file = self._folder / "figures" / f"{label.replace('/', '-')}.json"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            print(f"measuring {label}", file=sys.stderr, flush=True)
            found = make()
            file.write_text(json.dumps(found))
        values: Values = json.loads(file.read_text())
        return values

    def _rank(self, system: str, evaluated: EvalSet) -> ways.Rankings:
        if system in WITHOUT_MODEL:
            return WITHOUT_MODEL[system](evaluated)
        view = CachedView(self._open(system).view(evaluated.task), self._vectors)
        return (ways.hybrid if system.endswith(":hybrid") else ways.dense)(view)(evaluated)

    def _open(self, system: str) -> Embedder:
        model, _, kind = system.partition(":")
        folder = self._folder / model / ("full" if kind == "full" else "small")
        return Embedder.load(folder if folder.is_dir() else model)

    def _known_as(self, system: str, name: str) -> str:
        """The system, and which weights, prefixes and word rate it goes by: others of its name are measured anew."""
        if system in WITHOUT_MODEL:
            return system
        view = self._open(system).view(self.set(name).task)
        return f"{system}@{view.fingerprint[:8]}" + (f"-{view.word_rate}" if system.endswith(":hybrid") else "")

    def _read(self, system: str, name: str, shown: int) -> Values:
        if self._reader is None:
            lm, store = open_lm("smollm2", max_length=1536), RewardStore(self._folder / "reading")
            self._reader = Reader(lm, store, nll_of_written=False)
        evaluated = self.set(name)
        places = spread(len(evaluated.queries), self.read_of(name))
        part = replace(evaluated, queries=tuple(evaluated.queries[i] for i in places))
        found = self._reader.read(part, self._rank(system, part), shown)
        if evaluated.role in (Role.EXAMPLE, Role.KNOWLEDGE):
            text = "rouge_l" if evaluated.role is Role.EXAMPLE else "f1"
            found["answer"] = [*found.get("accuracy", ()), *found.get(text, ())]
        return found


def of_set(given: str) -> tuple[str, int]:
    """`SET=N`."""
    name, _, number = given.partition("=")
    return name, int(number)


def of_sets(given: str) -> tuple[str, int]:
    """`SET=N`, or `N` for all other sets, which go by the empty name."""
    return of_set(given if "=" in given else f"={given}")


def mean_by_query(values: Iterable[Sequence[float]]) -> list[float]:
    """Of each query, the mean over seeds."""
    return [statistics.mean(row) for row in zip(*values, strict=True)]


def compared(ours: list[Sequence[float]], other: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds, each seed's mean, and the paired difference from another system with its 95 % interval."""
    difference = paired_bootstrap(mean_by_query(ours), other)
    return {
        "mean": statistics.mean(map(statistics.mean, ours)),
        "seeds": [statistics.mean(values) for values in ours],
        "other": statistics.mean(other),
        "difference": [difference.mean, difference.low, difference.high],
    }


def row(*cells: object) -> str:
    """A line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def signed(difference: Sequence[float]) -> str:
    """A difference and its interval."""
    mean, low, high = difference
    return f"{mean:+.3f} [{low:+.3f}, {high:+.3f}]"


def retrieval_table(figures: Figures, columns: Sequence[str]) -> dict[str, Any]:
    """Dense retrieval of the released model beside BM25, its backbone, single runs and further models."""
    report: dict[str, Any] = {}
    print(row("test set", "metric", "queries", *columns, RELEASED, "difference from minilm"))
    print(row(*["---"] * (5 + len(columns))))
    for task, names in SETS.items():
        for name in names:
            for metric in [METRIC[task]] + (["ndcg@5 unseen"] if task == "tool" else []):
                values = {system: figures.retrieval(system, name).get(metric) for system in (*columns, RELEASED)}
                ours, start = values.pop(RELEASED), values["minilm"]
                if not ours or not start:
                    continue
                means = {system: statistics.mean(found) for system, found in values.items() if found}
                found = compared([ours], start)
                report[f"{name} {metric}"] = found | means
                label = name + (" (never trained on)" if name in UNTRAINED else "")
                cells = [f"{means[system]:.3f}" for system in columns]
                print(row(label, metric, len(ours), *cells, f"{found['mean']:.3f}", signed(found["difference"])))
    return report


def tools_table(figures: Figures, columns: Sequence[str]) -> dict[str, Any]:
    """Means over the tool sets: of all requests of each, of the first `FIRST`, and of those for unseen tools."""
    report: dict[str, Any] = {}
    systems = [*columns, RELEASED]
    print(row("requests of each tool set", *systems))
    print(row(*["---"] * (1 + len(systems))))
    for label, kind, first in (("all", "", None), (f"first {FIRST}", "", FIRST), ("for unseen tools", " unseen", None)):
        metric = METRIC["tool"] + kind
        report[label] = means = {
            system: statistics.mean(
                statistics.mean(figures.retrieval(system, name)[metric][:first]) for name in SETS["tool"]
            )
            for system in systems
        }
        print(row(label, *(f"{mean:.3f}" for mean in means.values())))
    return report


def hybrid_table(figures: Figures) -> dict[str, Any]:
    """The search by meaning and words beside the better of its two rankers."""
    report: dict[str, Any] = {}
    print(row("test set", "the better alone", "is", "together", "difference"))
    print(row(*["---"] * 5))
    for task, names in SETS.items():
        for name in names:
            both = figures.retrieval(HYBRID, name).get(METRIC[task])
            if both:
                alone = {system: figures.retrieval(system, name)[METRIC[task]] for system in (RELEASED, "BM25")}
                better = max(alone, key=lambda system: statistics.mean(alone[system]))
                report[name] = found = compared([both], alone[better]) | {"better": better}
                cells = f"{found['other']:.3f}", f"{found['mean']:.3f}", signed(found["difference"])
                print(row(name, better, *cells))
    return report


def specialists_table(figures: Figures, seeds: Sequence[int]) -> dict[str, Any]:
    """The model beside the specialist of each role."""
    report: dict[str, Any] = {}
    print(row("test set", "specialist", "quadrieve", "difference"))
    print(row(*["---"] * 4))
    for task, names in SETS.items():
        for name in names:
            own = [figures.retrieval(f"{task}-{seed}", name).get(METRIC[task]) for seed in seeds]
            ours = [figures.retrieval(f"one-{seed}", name).get(METRIC[task]) for seed in seeds]
            if not all(own) or not all(ours):
                continue
            found = compared([v for v in ours if v], mean_by_query([v for v in own if v]))
            report[name] = found
            print(row(name, f"{found['other']:.3f}", f"{found['mean']:.3f}", signed(found["difference"])))
    return report


def reading_table(figures: Figures) -> dict[str, Any]:
    """What the language model makes of the texts found: perplexity of the true reply, and answers."""
    report: dict[str, Any] = {}
    print(row("test set", "texts", "what is measured", "with the texts of", "theirs", "quadrieve's", "difference"))
    print(row(*["---"] * 7))
    for name, systems in READING.items():
        if figures.read_of(name) == 0:
            continue
        role = figures.set(name).role
        memory = role is Role.MEMORY
        metric = "nll" if memory else "answer"
        for shown, system in product(SHOWN[role], systems):
            ours = figures.reading(RELEASED, name, shown)[metric]
            found = compared([ours], figures.reading(system, name, shown)[metric])
            report.setdefault(name, {}).setdefault(shown, {})[system] = found
            means = [math.exp(x) if memory else x for x in (found["other"], found["mean"])]
            what = "perplexity of the reply; difference in nats" if memory else "answer score"
            print(row(name, shown, what, system, *(f"{mean:.3f}" for mean in means), signed(found["difference"])))
    return report


def main() -> None:
    """Train what is not trained, measure what is not measured, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the recipe's sources and of the sets")
    parser.add_argument("--folder", type=Path, required=True, help="where models and figures are kept")
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="single runs of the recipe, to train and show")
    parser.add_argument("--specialists", type=int, nargs="*", default=[], help="seeds of one-role runs, likewise")
    parser.add_argument(
        "--also", nargs="*", default=[], help="further models, such as quadrieve:hybrid one-1:full runs/x"
    )
    parser.add_argument(
        "--keys",
        type=of_set,
        nargs="*",
        default=[],
        metavar="SET=N",
        help="so many texts of its corpus, drawn at random, gold among them",
    )
    parser.add_argument(
        "--lm-queries",
        type=of_sets,
        nargs="+",
        default=[("", 100)],
        metavar="[SET=]N",
        help="of each set that is answered, or of the one named; 0 alone reads nothing",
    )
    parser.add_argument("--models", nargs="*", help="train and measure these alone, such as one-1 qa-1; no tables")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    lm_queries = dict(args.lm_queries)
    figures = Figures(args.data, args.folder, dict(args.keys), lm_queries)
    if args.models is not None:
        for model in args.models:
            if model not in (RELEASED, "minilm", "BM25"):
                train(model, args.data, args.folder)
            task = model.rsplit("-", 1)[0]
            for name in (name for kind, names in SETS.items() if task not in SETS or task == kind for name in names):
                figures.retrieval(model, name)
        return
    for model in [f"one-{s}" for s in {*args.seeds, *args.specialists}] + [
        f"{task}-{s}" for task in SETS for s in args.specialists
    ]:
        train(model, args.data, args.folder)
    columns = ["BM25", "minilm", *(f"one-{seed}" for seed in args.seeds), *args.also]
    report = {"retrieval": retrieval_table(figures, columns)}
    print(f"\nTools, mean {METRIC['tool']} of the three sets\n")
    report["tools"] = tools_table(figures, columns)
    if HYBRID in args.also:
        print("\nBy meaning and words, beside the better of the two\n")
        report["hybrid"] = hybrid_table(figures)
    if args.specialists:
        print("\nBeside four specialists\n")
        report["specialists"] = specialists_table(figures, args.specialists)
    if any(lm_queries.values()):
        print("\nWhat SmolLM2-135M makes of what is found\n")
        report["reading"] = reading_table(figures)
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
