"""A chat that remembers each of its users, and reads their documents; any front end can stand on it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from langchain.agents import create_agent
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AIMessageChunk
from langgraph.store.base import SearchItem

from langchain_quadrieve import MemoryMiddleware, QuadrieveStore
from langchain_quadrieve.recollection import Recollection
from quadrieve import EmbedderLike, InputError

from .conversations import Conversations, Message
from .documents import Documents
from .passages import LONGEST, FoundPassage, Passages
from .reader_langchain import ReaderChat, SeenPrompt, called

_SYSTEM = "You are a friendly assistant. Answer in one short sentence."
_READ = 6  # messages of the conversation that the model reads; what was said before is remembered


@dataclass(frozen=True)
class Reply:
    """What came of a message so far: what the model said, and all that it was shown before it did."""

    text: str = ""
    recalled: Sequence[Recollection] = ()
    passages: Sequence[FoundPassage] = ()
    tools: Sequence[str] = ()
    prompt: str = ""
    notice: str = ""


class Companion:
    """Conversations, memories and documents of any number of users, each apart from every other's.

    Args:
        folder: Where all of it lies; what was finished is still there after a crash.
        embedder: What finds.
        model: What answers. One that runs here gets no tools: it is too small to use them well.

    Raises:
        StoreError: If the folder holds something else, or another process owns it.
    """

    def __init__(self, folder: Path, embedder: EmbedderLike, model: BaseChatModel) -> None:
        self.model = model
        self.store = QuadrieveStore(folder / "store", embedder=embedder)
        self.documents = Documents(folder / "documents", folder / "store", embedder)
        self._conversations = Conversations(self.store)
        memory = MemoryMiddleware(
            k=4, max_tokens=300, tools=[] if isinstance(model, ReaderChat) else ["remember", "recall", "forget"]
        )
        self._namespace = memory.namespace_of
        self._floor = memory.min_score or 0.0  # a list shows what a prompt would
        middleware: list[Any] = [memory, Passages(self.documents.retriever)]
        self._agent: Any = create_agent(model, system_prompt=_SYSTEM, middleware=middleware, store=self.store)

    def close(self) -> None:
        """Let go of the folder."""
        self.store.close()
        self.documents.close()

    def conversation(self, user: str, thread: str) -> list[Message]:
        """The latest messages of a conversation."""
        return self._conversations.get(self._namespace(user)[-1], thread)

    def reply(self, user: str, thread: str, message: str) -> Iterator[Reply]:
        """Answer a message, piece by piece; a turn is remembered when it is finished, and not before."""
        said = [*self.conversation(user, thread)[-_READ:], {"role": "user", "content": message}]
        seen = SeenPrompt(self.model)
        notice = f"The model reads {LONGEST} of {len(message)} characters." if len(message) > LONGEST else ""
        reply = Reply(notice=notice)
        for mode, part in self._agent.stream(
            {"messages": said}, {"callbacks": [seen]}, context={"user_id": user}, stream_mode=["messages", "values"]
        ):
            if mode == "values":
                new = part["messages"][len(said) :]
                reply = replace(
                    reply,
                    text=new[-1].text if new and isinstance(new[-1], AIMessage) else "",
                    recalled=part.get("recalled") or [],
                    passages=part.get("passages") or [],
                    tools=called(new),
                )
            elif isinstance(part[0], AIMessageChunk):
                reply = replace(reply, text=reply.text + part[0].text)
            reply = replace(reply, prompt=seen.text)
            yield reply
        self._conversations.add(self._namespace(user)[-1], thread, message, reply.text)

    def memories(self, user: str, query: str = "", limit: int = 100) -> list[SearchItem]:
        """A user's memories: those that fit a query, or the newest."""
        found = self.store.search(self._namespace(user), query=query.strip() or None, limit=limit)
        return [item for item in found if item.score is None or item.score >= self._floor]

    def memory(self, user: str, key: str) -> dict[str, Any]:
        """A memory: its `text`, when it was said (`at`) and by whom (`source`).

        Raises:
            InputError: If the user has no such memory.
        """
        found = self.store.get(self._namespace(user), key)
        if found is None:
            raise InputError("There is no such memory; it was forgotten meanwhile.")
        return found.value

    def forget(self, user: str, keys: Sequence[str]) -> None:
        """Delete memories, also where the user's conversations still say them, and erase their bytes."""
        gone = {self.memory(user, key)["text"] for key in keys}
        for key in keys:
            self.store.delete(self._namespace(user), key)
        self._conversations.withdraw(self._namespace(user)[-1], gone)
        self.store.rebuild()

    def correct(self, user: str, key: str, text: str) -> None:
        """Put another text in a memory's place; when it was said stays."""
        before = self.memory(user, key)
        corrected = {**before, "text": text, "source": "user"}
        self.store.put(self._namespace(user), key, corrected, index=["text"])
        self._conversations.withdraw(self._namespace(user)[-1], {before["text"]})

    def export(self, user: str, path: Path) -> None:
        """Write all of a user's memories as JSON lines, the oldest first."""
        with path.open("w", encoding="utf-8") as file:
            for item in reversed(self.memories(user, limit=10**9)):
                about = {key: value for key, value in item.value.items() if key != "text"}
                row = {"id": item.key, "text": item.value["text"], "metadata": about}
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
