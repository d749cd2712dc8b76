"""Labelling and training speed and memory: each pair on the same texts in one run.

Example: python benchmarks/train.py --json train.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peak_memory import peak_mb

WORDS = ("tide", "lamp", "gull", "bread", "inverter", "ledger", "council", "seal", "harbour", "kettle", "frost")
RUNNERS = ("quadrieve", "quadrieve cached", "sentence-transformers")


def texts(n: int, low: int, high: int, seed: int) -> list[str]:
    """Random sentences of `low` to `high` words, all different."""
    rng = random.Random(seed)
    return [f"{i} " + " ".join(rng.choices(WORDS, k=rng.randint(low, high))) for i in range(n)]


def label(pairs: int, repeat: int) -> dict[str, Any]:
    """Seconds for each (query, candidate) pair: rank-aware (10 other outputs) in three ways, and likelihood."""
    from quadrieve_train import FrozenLM, Prompt

    lm = FrozenLM.load()
    padded = FrozenLM(lm.model, lm.tokenizer, name="padded", revision="padded", packed=False)
    passages = texts(pairs, 100, 140, seed=1)
    prompts = [Prompt("Knowledge:\n", text, "\n\nQ: what came in with the tide? A:") for text in passages]
    outputs = [[f" {text}" for text in texts(11, 6, 12, seed=i)] for i in range(pairs)]
    ways: dict[str, Callable[[], Any]] = {
        "rank, packed": lambda: lm.score_many(list(zip(prompts, outputs, strict=True))),
        "rank, padded batch": lambda: padded.score_many(list(zip(prompts, outputs, strict=True))),
        "rank, one forward per output": lambda: [
            padded.score(prompt, [output]) for prompt, each in zip(prompts, outputs, strict=True) for output in each
        ],
        "likelihood": lambda: lm.score_many([(p, each[:1]) for p, each in zip(prompts, outputs, strict=True)]),
    }
    lm.score(prompts[0], outputs[0])
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeat):
        for name, way in ways.items():
            start = time.perf_counter()
            way()
            seconds[name].append((time.perf_counter() - start) / pairs)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    packed = median["rank, packed"]
    return {
        "lm": lm.revision,
        "prompt_tokens": statistics.mean(lm.count_tokens(prompt.text) for prompt in prompts),
        "output_tokens": statistics.mean(lm.count_tokens(o) for each in outputs for o in each),
        "seconds_per_pair": median,
        "times_faster_than_one_forward_per_output": median["rank, one forward per output"] / packed,
        "times_faster_than_padded": median["rank, padded batch"] / packed,
        "times_the_cost_of_likelihood": packed / median["likelihood"],
    }


def train(runner: str, batch: int, steps: int, low: int, high: int) -> dict[str, Any]:
    """Train in this process, which must be fresh: peak memory is the process's."""
    import torch
    from transformers import TrainerCallback

    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

        def on_train_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.perf_counter())

    queries = texts(batch * steps, low // 2, high // 2, seed=1)
    keys = texts(batch * steps, low, high, seed=2)
    with tempfile.TemporaryDirectory() as folder:
        if runner == "sentence-transformers":
            trainer = _peer(queries, keys, batch, steps, folder, Clock())
        else:
            trainer = _ours(queries, keys, batch, steps, folder, Clock(), cached=runner.endswith("cached"))
        trainer.train()
    seconds = [end - start for start, end in itertools.pairwise(ends[1:])]
    return {
        "runner": runner,
        "seconds_per_step": statistics.median(seconds),
        "peak_gb": peak_mb() * 2**20 / 1e9,
        "threads": torch.get_num_threads(),
    }


def _ours(queries: list[str], keys: list[str], batch: int, steps: int, folder: str, clock: Any, *, cached: bool) -> Any:
    from transformers import AutoTokenizer

    from quadrieve import checkpoint
    from quadrieve_train import MultiTaskTrainer, Recipe
    from quadrieve_train.encoder import BiEncoder
    from quadrieve_train.losses import Temperature
    from quadrieve_train.rows import Row, from_rows
    from quadrieve_train.trainer import training_arguments

    recipe = Recipe.from_dict(
        {
            "tasks": {"qa": {"sources": ["none"], "losses": {"contrastive": 1.0}}},
            "prefixes": "none",
            "candidates": 1,
            "steps": steps,
            "batch_size": batch,
            "grad_cache": cached,
            "tau": 0.05,
        }
    )
    start = checkpoint.find("minilm")
    rows = from_rows([Row("qa", query, (key,)) for query, key in zip(queries, keys, strict=True)])
    return MultiTaskTrainer(
        BiEncoder.load(start, Temperature(recipe.tau)),
        AutoTokenizer.from_pretrained(start.folder),
        {"qa": rows},
        recipe,
        training_arguments(recipe, Path(folder), use_cpu=True, report_to=[], disable_tqdm=True, max_grad_norm=1.0),
        callbacks=[clock],
    )


def _peer(queries: list[str], keys: list[str], batch: int, steps: int, folder: str, clock: Any) -> Any:
    import torch
    from datasets import Dataset
    from sentence_transformers import (
        SentenceTransformer,
        SentenceTransformerTrainer,
        SentenceTransformerTrainingArguments,
    )
    from sentence_transformers.losses import MultipleNegativesRankingLoss

    from quadrieve import checkpoint

    model = SentenceTransformer(str(checkpoint.find("minilm").folder), device="cpu")
    arguments = SentenceTransformerTrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=batch,
        bf16=bool(torch.cpu._is_avx512_bf16_supported()),
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
    )
    data = Dataset.from_dict({"anchor": queries, "positive": keys})
    return SentenceTransformerTrainer(
        model, arguments, train_dataset=data, loss=MultipleNegativesRankingLoss(model), callbacks=[clock]
    )


def compare(batch: int, steps: int, low: int, high: int, runners: tuple[str, ...], repeat: int) -> dict[str, Any]:
    """Each runner in processes of its own, in turns; the median of its steps and the highest of its peaks."""
    found: dict[str, list[dict[str, Any]]] = {runner: [] for runner in runners}
    for _ in range(repeat):
        for runner in runners:
            command = [sys.executable, __file__, "--runner", runner]
            command += ["--train", *map(str, (batch, steps, low, high))]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                raise SystemExit(f"{runner}: {done.stderr[-2000:]}")
            found[runner].append(json.loads(done.stdout.strip().splitlines()[-1]))
    return {
        runner: {
            "s a step": statistics.median(run["seconds_per_step"] for run in runs),
            "peak GB": max(run["peak_gb"] for run in runs),
        }
        for runner, runs in found.items()
    }


def table(title: str, rows: dict[str, dict[str, float]]) -> None:
    """Print rows of figures."""
    columns = list(next(iter(rows.values())))
    print(f"\n{title}\n\n| | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(f'{row[column]:.3g}' for column in columns)} |")


def main() -> None:
    """Measure, print tables, and say which bars are reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("label", "step", "memory"))
    parser.add_argument("--pairs", type=int, default=6, help="(query, candidate) pairs that are labelled")
    parser.add_argument("--batch", type=int, default=32, help="queries in a timed step")
    parser.add_argument("--steps", type=int, default=6, help="timed steps of a run, the first one apart")
    parser.add_argument("--words", type=int, nargs=2, default=(30, 60), help="of a candidate; a query has half of them")
    parser.add_argument("--repeat", type=int, default=3, help="runs of each way, in turns; the median counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--runner", choices=RUNNERS, help=argparse.SUPPRESS)
    parser.add_argument("--train", type=int, nargs=4, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runner:
        print(json.dumps(train(args.runner, *args.train)))
        return
    results: dict[str, Any] = {}
    bars: dict[str, bool] = {}
    peer = "sentence-transformers"
    if args.only in (None, "label"):
        results["label"] = found = label(args.pairs, args.repeat)
        packed = found["seconds_per_pair"]["rank, packed"]
        table(
            f"Labelling with {found['lm']}: {args.pairs} prompts of {found['prompt_tokens']:.0f} tokens, each with "
            f"outputs of {found['output_tokens']:.0f}",
            {way: {"s a pair": s, "ratio": s / packed} for way, s in found["seconds_per_pair"].items()},
        )
        bars["rank-aware labelling >= 5 x one forward per output"] = (
            found["times_faster_than_one_forward_per_output"] >= 5
        )
        bars["rank-aware labelling >= 2 x a padded batch"] = found["times_faster_than_padded"] >= 2
        bars["rank-aware within 2.5 x of likelihood"] = found["times_the_cost_of_likelihood"] <= 2.5
    if args.only in (None, "step"):
        results["step"] = found = compare(args.batch, args.steps + 1, *args.words, ("quadrieve", peer), args.repeat)
        table(f"Training all-MiniLM-L6-v2, {args.batch} pairs a step", found)
        bars["a step no slower than sentence-transformers'"] = found["quadrieve"]["s a step"] <= found[peer]["s a step"]
    if args.only in (None, "memory"):
        results["memory"] = found = compare(512, 2, 12, 24, ("quadrieve cached", peer), 1)
        table("Training all-MiniLM-L6-v2, 512 pairs a step", found)
        bars["half the peak memory at an effective batch of 512"] = (
            found["quadrieve cached"]["peak GB"] <= found[peer]["peak GB"] / 2
        )
    print()
    for bar, reached in bars.items():
        print(f"{'reached' if reached else 'MISSED '}  {bar}")
    if args.json:
        args.json.write_text(json.dumps({"results": results, "bars": bars}, indent=2) + "\n")


if __name__ == "__main__":
    main()
