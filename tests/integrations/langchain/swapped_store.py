"""A pytest plugin that puts our store where `InMemoryStore` stood, before LangGraph's own tests import it."""

from __future__ import annotations

from typing import Any

import langgraph.store.memory

from langchain_quadrieve import QuadrieveStore

opened = 0


class CountedStore(QuadrieveStore):
    """Counts how often it is opened, so that a swap that did not happen shows."""

    def __init__(self, **options: Any) -> None:
        global opened  # noqa: PLW0603  # a plugin is a module
        opened += 1
        super().__init__(**options)


def pytest_configure() -> None:
    langgraph.store.memory.InMemoryStore = CountedStore  # type: ignore[misc,assignment]  # the swap


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.write_line(f"stores opened: {opened}")
