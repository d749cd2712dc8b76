"""Does a recipe learn: NDCG@10 on each role's dev split, of the starting weights and after training, over seeds.

Each seed is a run of `quadrieve train` that goes on where it was stopped; all share their rewards, so the language
model labels once. Seeds that are done are only read.

Example: python benchmarks/learn.py --data data --folder learned --json learned.json
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from quadrieve_train import Recipe

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t: 95 % interval of a mean over so many seeds


def train(recipe: str, data: Path, folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """NDCG by task `before` and `after` the run of a seed, which is made if it was not yet."""
    out = folder / f"seed-{seed}"
    wanted = replace(Recipe.load(recipe), seed=seed).to_yaml()
    if not (out / "training.json").is_file() or (out / "recipe.yaml").read_text() != wanted:
        command = [sys.executable, "-m", "quadrieve_train", "train", recipe, "--data", data, "--out", out, "--cpu"]
        command += ["--rewards", folder / "rewards", "--seed", seed]
        subprocess.run(list(map(str, command)), check=True, stdout=sys.stderr)
    figures: dict[str, dict[str, float]] = json.loads((out / "training.json").read_text())["figures"]
    return figures


def interval(values: list[float]) -> float:
    """Half of the 95 % interval of the mean."""
    if len(values) not in T_95:
        return float("nan")
    return T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values))


def main() -> None:
    """Train what is not trained, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", default="cpu", help="of the package, or a YAML file")
    parser.add_argument("--data", type=Path, required=True, help="folder of the recipe's sources")
    parser.add_argument("--folder", type=Path, required=True, help="where models and rewards go")
    parser.add_argument("--seeds", type=int, nargs="+", default=(1, 2, 3))
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    figures = {seed: train(args.recipe, args.data, args.folder, seed) for seed in args.seeds}
    tasks = list(next(iter(figures.values()))["before"])
    gains = {task: [f["after"][task] - f["before"][task] for f in figures.values()] for task in tasks}
    start = next(iter(figures.values()))["before"]
    print(f"NDCG@10 on dev, recipe {args.recipe}\n")
    print(f"| | start | {' | '.join(f'seed {seed}' for seed in figures)} | difference |")
    print("|---|---|" + "---|" * (len(figures) + 1))
    for task in tasks:
        after = " | ".join(f"{f['after'][task]:.3f} ({f['after'][task] - start[task]:+.3f})" for f in figures.values())
        mean = statistics.mean(gains[task])
        print(f"| {task} | {start[task]:.3f} | {after} | {mean:+.3f} ± {interval(gains[task]):.3f} |")
    if args.json:
        args.json.write_text(json.dumps({"recipe": args.recipe, "figures": figures}, indent=2) + "\n")


if __name__ == "__main__":
    main()
