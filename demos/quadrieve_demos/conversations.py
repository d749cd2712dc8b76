"""Each user's conversations in a LangGraph store, so that a page can show them again tomorrow."""

from __future__ import annotations

from collections.abc import Sequence, Set

from langgraph.store.base import BaseStore

from quadrieve.turns import read_turns, render

#: A message as the frameworks take it: its `role`, `user` or `assistant`, and its `content`.
Message = dict[str, str]

_KEPT = 200  # messages of a conversation


class Conversations:
    """Messages by user and conversation; a user's message and its answer are kept and withdrawn together.

    Args:
        store: Where they lie.
        namespace: Under which labels of the store; each user has one of their own below.
    """

    def __init__(self, store: BaseStore, namespace: Sequence[str] = ("conversations",)) -> None:
        self._store = store
        self._namespace = tuple(namespace)

    def get(self, user: str, thread: str) -> list[Message]:
        """The latest messages of a conversation."""
        found = self._store.get((*self._namespace, user), thread)
        messages: list[Message] = found.value["messages"] if found else []
        return messages

    def add(self, user: str, thread: str, said: str, answer: str) -> None:
        """Keep what a user said and what was answered."""
        turn = [{"role": "user", "content": said}, {"role": "assistant", "content": answer}]
        self._put(user, thread, [*self.get(user, thread), *turn][-_KEPT:])

    def withdraw(self, user: str, texts: Set[str]) -> None:
        """Take turns out of all of a user's conversations, given as `quadrieve.turns.render` writes them."""
        for found in self._store.search((*self._namespace, user), limit=10**9):
            messages = found.value["messages"]
            turns = [messages[start : start + 2] for start in range(0, len(messages), 2)]
            left = [message for turn in turns if render(read_turns(turn)) not in texts for message in turn]
            if len(left) < len(messages):
                self._put(user, found.key, left)

    def _put(self, user: str, thread: str, messages: Sequence[Message]) -> None:
        self._store.put((*self._namespace, user), thread, {"messages": list(messages)}, index=False)
