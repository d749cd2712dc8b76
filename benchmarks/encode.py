"""Encoding speed, exactness and memory, beside sentence-transformers on the same texts in one run.

Example: python benchmarks/encode.py --texts 2000 --json encode.json
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

from peak_memory import peak_mb

RUNNERS = ("quadrieve bf16", "quadrieve fp32", "sentence-transformers bf16", "sentence-transformers fp32")
WORDS = "tide lamp gull bread inverter ledger trail council seal harbour notice kettle frost window parcel".split()


def texts(n: int, seed: int = 0) -> list[str]:
    """Random sentences, two thirds of 5 to 30 words and one third of 60 to 200."""
    rng = random.Random(seed)
    lengths = (rng.randint(5, 30) if rng.random() < 2 / 3 else rng.randint(60, 200) for _ in range(n))
    return [" ".join(rng.choices(WORDS, k=length)) for length in lengths]


def measure(runner: str, n: int, repeat: int) -> dict[str, Any]:
    """Encode in this process, which must be fresh: peak memory is the process's."""
    import time

    import numpy as np

    from quadrieve import Embedder

    library, dtype = runner.split()
    corpus = texts(n)
    if library == "quadrieve":
        embedder = Embedder.load("minilm", dtype="bfloat16" if dtype == "bf16" else "float32")
        view = embedder.view("qa")

        def encode(some: list[str]) -> Any:
            return view.embed_keys(some)
    else:
        import torch
        from sentence_transformers import SentenceTransformer

        from quadrieve import checkpoint

        peer = SentenceTransformer(
            str(checkpoint.find("minilm").folder),
            device="cpu",
            model_kwargs={"dtype": torch.bfloat16 if dtype == "bf16" else torch.float32},
        )

        def encode(some: list[str]) -> Any:
            return peer.encode(some, batch_size=32, convert_to_numpy=False, convert_to_tensor=True).float().numpy()

    encode(corpus[:64])
    seconds = []
    for _ in range(repeat):
        start = time.perf_counter()
        vectors = encode(corpus)
        seconds.append(time.perf_counter() - start)
    np.save(sys.stdout.buffer, np.asarray(vectors, dtype=np.float32))
    return {"seconds": min(seconds), "peak_mb": peak_mb()}


def main() -> None:
    """Measure each runner in a process of its own and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=2000)
    parser.add_argument("--repeat", type=int, default=3, help="the best of so many runs counts")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--runner", choices=RUNNERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.runner:
        print(json.dumps(measure(args.runner, args.texts, args.repeat)), file=sys.stderr)
        return

    import io

    import numpy as np

    from quadrieve import Embedder

    counter = Embedder.load("minilm")
    tokens = sum(min(256, counter.count_tokens(text)) for text in texts(args.texts))
    rows: dict[str, dict[str, Any]] = {}
    vectors: dict[str, Any] = {}
    for runner in RUNNERS:
        command = [sys.executable, __file__, "--runner", runner]
        done = subprocess.run(
            [*command, "--texts", str(args.texts), "--repeat", str(args.repeat)], capture_output=True, check=True
        )
        rows[runner] = json.loads(done.stderr.decode().strip().splitlines()[-1])
        vectors[runner] = np.load(io.BytesIO(done.stdout))
    exact = vectors["sentence-transformers fp32"]
    for runner, row in rows.items():
        unit = vectors[runner] / np.linalg.norm(vectors[runner], axis=1, keepdims=True)
        row["tokens_per_s"] = round(tokens / row.pop("seconds"))
        row["min_cosine_to_fp32"] = float((unit * exact).sum(axis=1).min())
    base = rows["sentence-transformers fp32"]["tokens_per_s"]
    print(f"{args.texts} texts, {tokens} tokens, all-MiniLM-L6-v2\n")
    print(f"{'':<28}{'tokens/s':>10}{'ratio':>8}{'min cosine to fp32':>20}{'peak MB':>9}")
    for runner, row in rows.items():
        speed, exactness = row["tokens_per_s"], row["min_cosine_to_fp32"]
        print(f"{runner:<28}{speed:>10}{speed / base:>8.2f}{exactness:>20.5f}{row['peak_mb']:>9.0f}")
    if args.json:
        args.json.write_text(json.dumps({"texts": args.texts, "tokens": tokens, "runners": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
