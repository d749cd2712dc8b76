"""The chat that remembers: how soon its page is there, how quickly it recalls and answers, and what it holds on to.

- page: from the start of `quadrieve chat` until Chromium shows a box to write into.
- recall: from a message until its memories are there, of a user who has many.
- token: from a message until the first piece of the packaged language model's answer, with memories, what was said
  before and passages of a document in its prompt.
- growth: Python's objects, and the process's memory beside that of a store alone that is given the same, over many
  turns; the model's answers are written beforehand.

Each part runs in a process of its own. Exit status 1 if a bar is missed.

Example: python benchmarks/chat.py --part recall token --json chat.json
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

#: What must be reached: seconds to the page, milliseconds of recall (p95), seconds to the first token (p95), objects
#: that a turn may leave behind (its messages alone are more than ten), megabytes beyond the store's own.
PAGE, RECALL, TOKEN, OBJECTS, MEGABYTES = 5.0, 100.0, 3.0, 1.0, 10.0

CHROMIUM = "/usr/bin/chromium"
PEOPLE = "Ada Bela Cleo Dana Edda Finn Gwen Hugo Imke Jonas Kaya Linus Mara Nils Olga Pavel".split()
THINGS = "boat bakery bicycle piano garden roof oven kitchen camera sweater lamp letter clock kayak kettle tent".split()
PLACES = "Tarrock Bergen Halden Oslo Turin Lisbon Gdansk Ghent Porto Riga Bilbao Nantes Malmo Trieste".split()
DEEDS = "mended bought sold painted lost found cleaned borrowed photographed measured moved admired".split()


def page(_: argparse.Namespace) -> dict[str, Any]:
    """Start the command several times, and look at its page with a browser that is open already."""
    from playwright.sync_api import sync_playwright

    seconds, answered = [], []
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for _time in range(6):
            tab = browser.new_page()
            with socket.socket() as free:
                free.bind(("127.0.0.1", 0))
                port = str(free.getsockname()[1])
            start = time.perf_counter()
            command = [Path(sys.executable).with_name("quadrieve"), "chat", "--no-browser", "--folder", folder]
            with subprocess.Popen([*command, "--port", port], stdout=subprocess.PIPE, text=True) as server:
                assert server.stdout is not None
                url = server.stdout.readline().split(" at ")[1].split()[0]
                tab.goto(url)
                tab.locator("#message textarea").wait_for()
                seconds.append(time.perf_counter() - start)
                tab.locator("#notice").wait_for(state="hidden")
                answered.append(time.perf_counter() - start)
                server.terminate()
            tab.close()
        browser.close()
    return {
        "starts": len(seconds) - 1,
        "first_start_s": seconds[0],
        "page_s_max": max(seconds[1:]),
        "model_loaded_s_max": max(answered[1:]),
        "bars": {f"page within {PAGE:.0f} s": max(seconds[1:]) < PAGE},
    }


def recall(args: argparse.Namespace) -> dict[str, Any]:
    """Ask about what one of many memories says."""
    from langgraph.store.base import PutOp

    with tempfile.TemporaryDirectory() as folder:
        chat = _companion(Path(folder))
        said = _sentences(args.memories)
        namespace = ("memories", "ada")
        start = time.perf_counter()
        for first in range(0, len(said), 1000):
            values = [
                {"text": f"User: {text}", "at": "2026-01-05T18:00:00Z", "source": "conversation"}
                for text in said[first : first + 1000]
            ]
            chat.store.batch(PutOp(namespace, str(first + i), value, index=["text"]) for i, value in enumerate(values))
            print(f"\r{first + len(values)} memories", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
        filled = time.perf_counter() - start
        times, found = [], []
        for number, text in enumerate(random.Random(1).sample(said, args.turns)):
            message = f"Who {text.split(' ', 1)[1].rstrip('.')}?"
            start = time.perf_counter()
            for reply in chat.reply("ada", f"talk {number}", message):
                if reply.recalled:
                    times.append(1000 * (time.perf_counter() - start))
                    found.append(any(text in memory["text"] for memory in reply.recalled))
                    break
        chat.close()
    p50, p95 = np.percentile(times[5:], [50, 95])
    return {
        "memories": args.memories,
        "turns": len(times),
        "seconds_to_fill": filled,
        "right_one_recalled": float(np.mean(found)),
        "recall_ms_p50": float(p50),
        "recall_ms_p95": float(p95),
        "bars": {f"recall p95 below {RECALL:.0f} ms with {args.memories} memories": p95 < RECALL},
    }


def token(_: argparse.Namespace) -> dict[str, Any]:
    """Talk with the packaged language model, about things said before and about a document."""
    from quadrieve import Embedder
    from quadrieve_demos.chat import Companion
    from quadrieve_demos.reader_langchain import open_chat_model

    said = _sentences(40)
    with tempfile.TemporaryDirectory() as folder:
        chat = Companion(Path(folder, "chat"), Embedder.load(), open_chat_model(None, 8))
        document = Path(folder, "town.md")
        document.write_text("\n\n".join(" ".join(said[start : start + 8]) for start in range(0, 40, 8)))
        chat.documents.add("ada", [document])
        times, tokens = [], []
        for text in said[:20]:
            start = time.perf_counter()
            first = None
            for reply in chat.reply("ada", "talk", f"Do you know who {text.split(' ', 1)[1]}"):
                if reply.text and first is None:
                    first = time.perf_counter() - start
                    times.append(first)
                    tokens.append(chat.model.reader.count_tokens(reply.prompt))  # type: ignore[attr-defined]
        chat.close()
    return {
        "turns": len(times),
        "prompt_tokens_p50": float(np.median(tokens)),
        "prompt_tokens_max": max(tokens),
        "first_token_s_p50": float(np.median(times)),
        "first_token_s_p95": float(np.percentile(times, 95)),
        "bars": {f"first token p95 below {TOKEN:.0f} s": float(np.percentile(times, 95)) < TOKEN},
    }


def growth(args: argparse.Namespace) -> dict[str, Any]:
    """Talk for long, in a process; and write as much to a store alone, in another."""
    chat, store = (_in_process(f"growth-{what}", args) for what in ("chat", "store"))
    beyond = chat["grown_mb"] - store["grown_mb"]
    return {
        "turns": args.long,
        "objects_a_turn": chat["grown_objects"] / chat["over"],
        "chat_grown_mb": chat["grown_mb"],
        "store_alone_grown_mb": store["grown_mb"],
        "store_on_disk_mb": chat["disk_mb"],
        "bars": {
            f"a turn leaves less than {OBJECTS:.0f} object behind": chat["grown_objects"] / chat["over"] < OBJECTS,
            f"{args.long} turns take less than {MEGABYTES:.0f} MB beyond the store's own": beyond < MEGABYTES,
        },
    }


def growth_chat(args: argparse.Namespace) -> dict[str, Any]:
    """What the chat holds after so many turns."""
    with tempfile.TemporaryDirectory() as folder:
        chat = _companion(Path(folder))
        said = _sentences(args.long)

        def turn(number: int) -> None:
            for _reply in chat.reply("ada", f"talk {number // 50}", said[number]):
                pass

        grown = _grown(turn, args.long)
        grown["disk_mb"] = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()) / 2**20
        chat.close()
    return grown


def growth_store(args: argparse.Namespace) -> dict[str, Any]:
    """What a store alone holds after it was searched and given the same as in so many turns."""
    from langchain_quadrieve import QuadrieveStore
    from quadrieve import Embedder

    with tempfile.TemporaryDirectory() as folder, QuadrieveStore(folder, embedder=Embedder.load()) as store:
        said = _sentences(args.long)

        def turn(number: int) -> None:
            text = f"User: {said[number]}\nAssistant: {ANSWER}"
            store.search(("memories", "ada"), query=said[number], limit=8)
            store.put(("memories", "ada"), str(number), {"text": text}, index=["text"])
            messages = [
                {"role": role, "content": content}
                for each in said[number // 50 * 50 : number + 1]
                for role, content in (("user", each), ("assistant", ANSWER))
            ]
            store.put(("conversations", "ada"), f"talk {number // 50}", {"messages": messages}, index=False)

        return _grown(turn, args.long)


ANSWER = "I shall keep that in mind."
PARTS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "page": page,
    "recall": recall,
    "token": token,
    "growth": growth,
}
OWN: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    **PARTS,
    "growth-chat": growth_chat,
    "growth-store": growth_store,
}


def _companion(folder: Path) -> Any:
    """A chat with the packaged embedder, whose model answers at once."""
    from langchain_core.language_models import FakeListChatModel

    from quadrieve import Embedder
    from quadrieve_demos.chat import Companion

    class AtOnce(FakeListChatModel):
        def bind_tools(self, tools: Sequence[Any], **_: Any) -> Any:
            return self

    return Companion(folder, Embedder.load(), AtOnce(responses=[ANSWER]))


def _sentences(n: int) -> list[str]:
    """Different things that somebody may say."""
    rng = random.Random(0)
    found: dict[str, None] = {}
    while len(found) < n:
        day = f"{rng.randint(1, 28)} {rng.choice(['March', 'May', 'June', 'August', 'October', 'December'])}"
        found[
            f"{rng.choice(PEOPLE)} {rng.choice(DEEDS)} the {rng.choice(THINGS)} in {rng.choice(PLACES)} on {day}."
        ] = None
    return list(found)


def _grown(turn: Callable[[int], None], turns: int) -> dict[str, Any]:
    """How objects and memory grew over the last four fifths of the turns."""
    held = []
    for number in range(turns):
        turn(number)
        if number + 1 in {turns // 5, turns}:
            gc.collect()
            held.append((len(gc.get_objects()), _memory_mb()))
    (objects, megabytes), (objects_after, megabytes_after) = held
    return {
        "over": turns - turns // 5,
        "grown_objects": objects_after - objects,
        "grown_mb": megabytes_after - megabytes,
    }


def _memory_mb() -> float:
    """Megabytes that this process holds now; Linux only."""
    found = re.search(r"VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) / 1024


def _in_process(part: str, args: argparse.Namespace) -> dict[str, Any]:
    options = [f"--{name}={getattr(args, name)}" for name in ("memories", "turns", "long")]
    done = subprocess.run([sys.executable, __file__, "--own", part, *options], stdout=subprocess.PIPE, check=True)
    figures: dict[str, Any] = json.loads(done.stdout.decode().splitlines()[-1])
    return figures


def main() -> int:
    """Run the parts and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=PARTS, nargs="+", default=list(PARTS))
    parser.add_argument("--memories", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=200, help="messages whose recall is timed")
    parser.add_argument("--long", type=int, default=1000, help="turns of the long talk")
    parser.add_argument("--json", type=Path, help="also write the figures here")
    parser.add_argument("--own", choices=OWN, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.own:
        print(json.dumps(OWN[args.own](args), default=float))
        return 0
    figures = {part: _in_process(part, args) for part in args.part}
    bars = {bar: bool(reached) for row in figures.values() for bar, reached in row.pop("bars").items()}
    print("| part | figure | |\n|---|---|---|")
    for part, row in figures.items():
        for name, value in row.items():
            print(f"| {part} | {name.replace('_', ' ')} | {value:,.2f} |")
    print()
    for bar, reached in bars.items():
        print(f"{'reached' if reached else 'MISSED '}  {bar}")
    if args.json:
        args.json.write_text(json.dumps({**figures, "bars": bars}, indent=2) + "\n", encoding="utf-8")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
