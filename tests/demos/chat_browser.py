"""A server of the chat, and a tab of a browser that talks with it."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
ROOT = Path(__file__).parents[2]
#: The command itself, in a process that can reach nothing outside.
COMMAND = ["-c", "import tests.demos.offline; from quadrieve.cli import main; main()", "chat", "--no-browser"]
SCRIPTED = ["-m", "tests.demos.scripted_chat"]


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def served(*arguments: str | int | Path) -> Iterator[str]:
    """The address of a page while its process runs; it must end well when it is told to, and reach nothing outside."""
    process = subprocess.Popen(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if "chat is at" not in said:
            raise AssertionError(process.communicate(timeout=60)[1])
        yield said.split(" at ")[1].split()[0]
        process.terminate()
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
        assert "OUTSIDE" not in errors, errors
    finally:
        process.kill()
        process.wait()


class Tab:
    """A tab with the chat's page, and what it asked for."""

    def __init__(self, page: Any, url: str, *, wait: bool = True) -> None:
        self.page = page
        self.url = url
        self.requests: list[str] = []
        self.alarms: list[str] = []
        self.under_way: set[Any] = set()
        page.set_default_timeout(30_000)
        page.on("request", lambda request: self.requests.append(request.url))
        page.on("request", lambda request: self.under_way.add(request) if "/queue/" in request.url else None)
        for ended in ("requestfinished", "requestfailed"):
            page.on(ended, lambda request: self.under_way.difference_update([request]))
        page.on("dialog", lambda dialog: self.alarms.append(dialog.message))
        page.on("pageerror", lambda error: self.alarms.append(str(error)))
        page.goto(url)
        page.locator("#message textarea").wait_for()
        if wait:
            page.locator("#notice").wait_for(state="hidden")

    def say(self, text: str) -> str:
        """What is answered."""
        self.ask(text)
        self.finish()
        return self.answers()[-1]

    def ask(self, text: str) -> None:
        """Say something, and see it in the conversation."""
        before = self.page.locator("#talk .user [data-testid=user]").count()
        self.page.locator("#message textarea").fill(text)
        self.page.locator("#message textarea").press("Enter")
        self.page.locator("#talk .user [data-testid=user]").nth(before).wait_for()

    def finish(self) -> None:
        """Wait until nothing is being answered."""
        self.page.locator("#message .submit-button").wait_for()

    def answers(self) -> list[str]:
        return [text.strip() for text in self.page.locator("#talk [data-testid=bot]").all_inner_texts()]

    def panel(self) -> str:
        return str(self.page.locator("#panel").inner_text())

    def prompt(self) -> str:
        return str(self.page.locator("#panel details .said").text_content())

    def start(self, user: str | None = None) -> None:
        """A new conversation, of another user if one is named."""
        with self.working():
            if user:
                self.page.locator("#user textarea, #user input").first.fill(user)
                self.page.get_by_role("button", name="Switch").click()
            else:
                self.page.get_by_role("button", name="New conversation").click()
        assert self.answers() == []

    def tab(self, name: str) -> None:
        """Open one of the tabs beside the conversation."""
        button = self.page.get_by_role("tab", name=name)
        if button.get_attribute("aria-selected") != "true":
            with nullcontext() if name == "This turn" else self.working():
                button.click()

    def memories(self, query: str = "") -> list[str]:
        """The memories that the page lists."""
        self.tab("Memories")
        self.page.locator("#query textarea, #query input").first.fill(query)
        with self.working():
            self.page.get_by_role("button", name="Search").click()
        return [text.strip() for text in self.page.locator("#memories label").all_inner_texts()]

    def choose(self, *lines: str) -> None:
        """Tick memories that are listed."""
        for label in self.page.locator("#memories label").all():
            if label.inner_text().strip() in lines:
                with self.working():
                    label.locator("input").check()

    def forget(self, *lines: str) -> None:
        self.choose(*lines)
        with self.working():
            self.page.get_by_role("button", name="Forget").click()

    def add(self, document: Path) -> None:
        self.tab("Documents")
        with self.working():
            self.page.locator("#files input").set_input_files(document)
        self.page.locator("#documents").get_by_text(document.name).wait_for()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Do something, and wait until the server has done all that comes of it."""
        with self.page.expect_request(lambda request: "/queue/join" in request.url):
            yield
        quiet = 0
        while quiet < 3:
            self.page.wait_for_timeout(100)
            quiet = 0 if self.under_way else quiet + 1

    def outside(self) -> list[str]:
        """What it asked of anybody else."""
        return [url for url in self.requests if not url.startswith((self.url, "data:", "blob:"))]
