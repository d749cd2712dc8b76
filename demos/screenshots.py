"""Runs the demos and takes the pictures of demos/README.md.

Example: python -m demos.screenshots, at the root of a checkout with the development's packages.
"""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import sync_playwright
from rich.console import Console
from rich.text import Text
from tests.demos.chat_browser import ARGUMENTS, CHROMIUM, COMMAND, Tab, free_port, served

from quadrieve_demos import texts

FOLDER = Path(__file__).parent / "screenshots"
WIDE, NARROW = {"width": 1280, "height": 800}, {"width": 390, "height": 844}
LAST_YEAR = (
    "Hello! I am Ada, and my dog is called Biscuit.",
    "I sing in a choir on Tuesdays, so I am not at home then.",
    "How do I boil an egg?",
)
ASKED = "What is the name of my dog?"
ASKED_OF_DOCUMENTS = "Which person looked after the lamp at Hob Point just before it became automatic?"


def chat(browser: Any, folder: Path) -> None:
    """Tell the chat something, start it again, and ask."""
    town = folder / "marrow-bay.md"
    town.write_text("".join(f"# {row['title']}\n\n{row['text']}\n\n" for row in texts.read("passages")), "utf-8")
    command = [*COMMAND, "--folder", folder / "chat", "--max-tokens", 40]
    with served(*command, "--port", free_port()) as url:
        tab = Tab(browser.new_page(viewport=WIDE), url)
        for message in LAST_YEAR:
            tab.say(message)
    with served(*command, "--port", free_port()) as url:
        tab = Tab(browser.new_page(viewport=WIDE), url)
        tab.say(ASKED)
        _take(tab.page, "chat-this-turn")
        tab.memories("Tuesday evening")
        tab.choose(*tab.memories("Tuesday evening")[:1])
        _take(tab.page, "chat-memories")
        tab.add(town)
        tab.start()
        tab.say(ASKED_OF_DOCUMENTS)
        tab.tab("This turn")
        _take(tab.page, "chat-documents")
        narrow = Tab(browser.new_page(viewport=NARROW), url)
        narrow.say(ASKED)
        _take(narrow.page, "chat-narrow", full_page=True)


def agent(browser: Any, folder: Path) -> None:
    """Let the agent work in a terminal."""
    done = subprocess.run(  # noqa: S603 - the command itself
        [Path(sys.executable).with_name("quadrieve"), "demo", "agent", "--store", folder / "toolbox"],
        env={**os.environ, "COLUMNS": "110", "FORCE_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    console = Console(record=True, width=110, file=io.StringIO())
    console.print(Text.from_ansi(done.stdout.strip()))
    page = browser.new_page(viewport={"width": 960, "height": 400})
    page.set_content(console.export_html())
    _take(page, "agent", full_page=True)


def _take(page: Any, name: str, **options: Any) -> None:
    page.wait_for_timeout(500)
    picture = Image.open(io.BytesIO(page.screenshot(**options)))
    picture.quantize(64).save(FOLDER / f"{name}.png", optimize=True)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as folder:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        for take in (chat, agent):
            take(browser, Path(folder))
        browser.close()
