"""What a model may do with its user's memories on its own: remember, recall, forget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeAlias

from langchain.tools import ToolRuntime
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.store.base import BaseStore, NotProvided, SearchItem

from quadrieve.index.records import content_id

from .recollection import quote_memories, recollection

MemoryTool = Literal["remember", "recall", "forget"]
#: The store and the user's namespace in it, from the runtime of a call.
Place: TypeAlias = "Callable[[ToolRuntime[Any, Any]], tuple[BaseStore, tuple[str, ...]]]"


def memory_tools(names: Sequence[MemoryTool], place: Place, k: int, ttl: float | NotProvided | None) -> list[BaseTool]:
    """The tools of these names; each call is bound to the user of the run, whatever its arguments say.

    Args:
        names: Which of them.
        place: Says where the user's memories lie.
        k: How many memories `recall` shows.
        ttl: Minutes that a memory lives.
    """

    def remember(text: Annotated[str, "One fact, in a full sentence."], runtime: ToolRuntime[Any, Any]) -> str:
        """Keep a fact about the user for later conversations."""
        store, namespace = place(runtime)
        store.put(namespace, content_id(text), memory_value(text, "assistant"), index=["text"], ttl=ttl)
        return "Kept."

    async def aremember(text: Annotated[str, "One fact, in a full sentence."], runtime: ToolRuntime[Any, Any]) -> str:
        """Keep a fact about the user for later conversations."""
        store, namespace = place(runtime)
        await store.aput(namespace, content_id(text), memory_value(text, "assistant"), index=["text"], ttl=ttl)
        return "Kept."

    def recall(query: Annotated[str, "What to look for."], runtime: ToolRuntime[Any, Any]) -> str:
        """Look up what was said in earlier conversations with the user."""
        store, namespace = place(runtime)
        return _report(store.search(namespace, query=query, limit=k))

    async def arecall(query: Annotated[str, "What to look for."], runtime: ToolRuntime[Any, Any]) -> str:
        """Look up what was said in earlier conversations with the user."""
        store, namespace = place(runtime)
        return _report(await store.asearch(namespace, query=query, limit=k))

    def forget(keys: Annotated[list[str], "The keys that recall showed."], runtime: ToolRuntime[Any, Any]) -> str:
        """Delete memories of the user, for good."""
        store, namespace = place(runtime)
        for key in keys:
            store.delete(namespace, key)
        return "Forgotten."

    async def aforget(
        keys: Annotated[list[str], "The keys that recall showed."], runtime: ToolRuntime[Any, Any]
    ) -> str:
        """Delete memories of the user, for good."""
        store, namespace = place(runtime)
        for key in keys:
            await store.adelete(namespace, key)
        return "Forgotten."

    pairs: dict[str, tuple[Any, Any]] = {
        "remember": (remember, aremember),
        "recall": (recall, arecall),
        "forget": (forget, aforget),
    }
    return [StructuredTool.from_function(*pair) for name, pair in pairs.items() if name in names]


def memory_value(text: str, source: str) -> dict[str, Any]:
    """What the store keeps of something that is said now."""
    return {"text": text, "at": datetime.now(UTC).isoformat(timespec="seconds"), "source": source}


def _report(found: Sequence[SearchItem]) -> str:
    return quote_memories(list(map(recollection, found)), keys=True) if found else "Nothing was found."
