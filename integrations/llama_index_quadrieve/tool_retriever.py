"""A tool retriever for agents that honours both calls an agent makes: what to offer, and what to run."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

from llama_index.core.objects import ObjectRetriever, SimpleToolNodeMapping
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle, QueryType, TextNode
from llama_index.core.tools import BaseTool, FunctionTool

from quadrieve import InputError, Tool, Toolbox
from quadrieve.index.records import content_id
from quadrieve.tools import Allowed

from .conversation import Conversation, current_conversation

ToolLike = BaseTool | Callable[..., Any]

_ALONE = Conversation()


class QuadrieveToolRetriever(ObjectRetriever[BaseTool]):
    """The tools of a toolbox that a request needs, for an agent's `tool_retriever`.

    An agent asks twice: with the user's message for the tools to offer, and with a tool's exact name for the one
    to run; a name gives that tool. A message is read on its own and behind what the user said before it ("and
    the same for Paris?"), and tools that the conversation called already stay on offer. Both come from the
    memory of the agent's run, so one retriever serves any number of conversations at a time.

    Args:
        toolbox: Where descriptions are kept and searched; what is there already is not embedded again.
        tools: LlamaIndex tools or plain functions. Tools of the toolbox that are not among them are not offered.
        similarity_top_k: How many tools to choose by rank; `always`, called and required ones come on top.
        always: Names of tools to offer whatever is asked.
        requires: For a tool's name, the names of those that must be at hand with it.
        usage: For a tool's name, requests that it answers in a user's words.
        permissions: For a tool's name, what a caller must hold to be offered it, or to run it.
        allowed: The permissions that the caller holds, or a function of the `Tool`; None allows all.
        max_tokens: What the descriptions may take together; who comes first is `always`, called, ranked.
        history: How many earlier user turns a message is also read with; 0 reads it only on its own.
        keep_called: How many of the tools called before, the latest, stay on offer.
        node_postprocessors: As in `ObjectRetriever`; they see the tools that were chosen for a message.

    Raises:
        InputError: If two tools have one name, or a name stands for no tool.

    Example:
        >>> from quadrieve import Embedder
        >>> from llama_index_quadrieve import QuadrieveToolRetriever
        >>> def get_weather(city: str) -> str:
        ...     "Current weather of a city."
        >>> def send_mail(to: str, text: str) -> str:
        ...     "Send an e-mail."
        >>> box = Toolbox.open(None, embedder=Embedder.load())
        >>> retriever = QuadrieveToolRetriever(box, [get_weather, send_mail], similarity_top_k=1)
        >>> [tool.metadata.name for tool in retriever.retrieve("Do I need an umbrella in Oslo?")]
        ['get_weather']
        >>> [tool.metadata.name for tool in retriever.retrieve("send_mail")]
        ['send_mail']
    """

    def __init__(
        self,
        toolbox: Toolbox,
        tools: Iterable[ToolLike],
        similarity_top_k: int = 5,
        always: Sequence[str] = (),
        *,
        requires: Mapping[str, Sequence[str]] | None = None,
        usage: Mapping[str, Sequence[str]] | None = None,
        permissions: Mapping[str, Collection[str]] | None = None,
        allowed: Allowed | None = None,
        max_tokens: int | None = None,
        history: int = 1,
        keep_called: int = 8,
        node_postprocessors: list[BaseNodePostprocessor] | None = None,
    ) -> None:
        super().__init__(_ToolNodes(self), SimpleToolNodeMapping(), node_postprocessors)
        self.toolbox = toolbox
        self.similarity_top_k = similarity_top_k
        self.always = tuple(always)
        self.allowed = allowed
        self.max_tokens = max_tokens
        self.history = history
        self.keep_called = keep_called
        self._tools: dict[str, BaseTool] = {}
        self._described: dict[str, Tool] = {}
        self.add(tools, requires=requires, usage=usage, permissions=permissions)
        self._check_names(self.always, "always")

    def add(
        self,
        tools: Iterable[ToolLike],
        *,
        requires: Mapping[str, Sequence[str]] | None = None,
        usage: Mapping[str, Sequence[str]] | None = None,
        permissions: Mapping[str, Collection[str]] | None = None,
    ) -> None:
        """Offer more tools from now on, such as those of a server that has just been connected.

        Takes what the constructor takes.

        Raises:
            InputError: If two tools have one name, or a name stands for no tool.
        """
        requires, usage, permissions = requires or {}, usage or {}, permissions or {}
        added: dict[str, BaseTool] = {}
        for each in tools:
            tool = each if isinstance(each, BaseTool) else FunctionTool.from_defaults(each)
            name = tool.metadata.get_name()
            if name in added or name in self._tools:
                raise InputError(f"Two tools have the name {name!r}; give each its own.")
            added[name] = tool
        described = {
            name: Tool(
                name,
                tool.metadata.description,
                tool.metadata.get_parameters_dict(),
                usage=usage.get(name, ()),
                requires=requires.get(name, ()),
                permissions=permissions.get(name, ()),
            )
            for name, tool in added.items()
        }
        for what, names in (("requires", requires), ("usage", usage), ("permissions", permissions)):
            self._check_names(names, what, added)
        self._check_names([name for tool in described.values() for name in tool.requires], "requires", added)
        if described:
            self.toolbox.register(described.values())
        for tool in added.values():
            self.object_node_mapping.add_object(tool)
        self._tools |= added
        self._described |= described

    def retrieve(self, str_or_query_bundle: QueryType) -> list[BaseTool]:
        """The tool of that name, or those to offer for a message, outside of any conversation."""
        return self._answer(_text(str_or_query_bundle), _ALONE)

    async def aretrieve(self, str_or_query_bundle: QueryType) -> list[BaseTool]:
        """The tool of that name, or those to offer for a message, in the conversation of the agent that asks."""
        text = _text(str_or_query_bundle)
        conversation = await current_conversation(call=text if self._may_use(text) else None)
        return await asyncio.to_thread(self._answer, text, conversation)

    def offer(self, message: str, conversation: Conversation = _ALONE) -> list[NodeWithScore]:
        """The tools to offer for a message, as nodes with their cosine similarity (0 where they were not ranked).

        `always` comes first, then what was called in the order of the first call, then the ranked ones: what
        stays on offer keeps its place.
        """
        usable = {name: tool for name, tool in self._described.items() if self._may_use(name)}
        offer = _Offer(usable, self.max_tokens, self.toolbox.count_tokens)
        for name in self.always:
            offer.put(name, must=True)
        called = [name for name in conversation.called if name in usable]
        for name in called[max(0, len(called) - self.keep_called) :]:
            offer.put(name)
        room = self.similarity_top_k
        for name, score in self._rank(message, conversation, room + len(offer.scores)):
            if room:
                room -= offer.put(name, score)
        return [_node(self._described[name], score) for name, score in offer.scores.items()]

    def _answer(self, text: str, conversation: Conversation) -> list[BaseTool]:
        named = [self._tools[text]] if self._may_use(text) else []
        if named and text != conversation.request:
            return named
        nodes = self.offer(text, conversation)
        for postprocessor in self.node_postprocessors:
            nodes = postprocessor.postprocess_nodes(nodes, query_bundle=QueryBundle(text))
        offered = [self.object_node_mapping.from_node(scored.node) for scored in nodes]
        return [*named, *(tool for tool in offered if tool not in named)]

    def _rank(self, message: str, conversation: Conversation, k: int) -> list[tuple[str, float]]:
        """Names and scores by the better rank of the message on its own and behind what the user said before."""
        earlier = conversation.said[:-1] if conversation.said[-1:] == (message,) else conversation.said
        readings = [message, "\n".join([*earlier[max(0, len(earlier) - self.history) :], message])]
        others = self.toolbox.count() > len(self._tools)
        allowed = (lambda tool: self._may_use(tool.name)) if others or self.allowed is not None else None
        best: dict[str, tuple[int, float]] = {}
        for reading in filter(str.strip, dict.fromkeys(readings)):
            hits = self.toolbox.select(reading, k, allowed=allowed)
            ranked = [hit for hit in hits if "required_by" not in hit.why]
            for rank, hit in enumerate(ranked):
                best[hit.name] = min((rank, -hit.score), best.get(hit.name, (k, 0.0)))
        return [(name, -minus) for name, (_, minus) in sorted(best.items(), key=lambda entry: entry[1])]

    def _may_use(self, name: str) -> bool:
        """Whether the caller may be offered the tool, and may run it: a hidden tool can be called all the same."""
        tool = self._described.get(name)
        if tool is None or self.allowed is None:
            return tool is not None
        return self.allowed(tool) if callable(self.allowed) else set(tool.permissions) <= set(self.allowed)

    def _check_names(self, names: Iterable[str], what: str, added: Collection[str] = ()) -> None:
        for name in names:
            if name not in added and name not in self._tools:
                raise InputError(f"{what} names {name!r}, which is none of the tools; add it, or leave it out.")


class _Offer:
    """Tools that fit into a budget together, each with those that it requires."""

    def __init__(self, tools: Mapping[str, Tool], max_tokens: int | None, count_tokens: Callable[[str], int]) -> None:
        self.scores: dict[str, float] = {}
        self._tools = tools
        self._left = math.inf if max_tokens is None else max_tokens
        self._count = count_tokens

    def put(self, name: str, score: float = 0.0, *, must: bool = False) -> bool:
        """Whether the tool fits, may be used with all that it requires, and is now offered."""
        group = {name: score}
        if name in self.scores or not self._add_required(name, group):
            return False
        cost = sum(self._count(self._tools[each].describe()) for each in group)
        if cost > self._left and not must:
            return False
        self._left -= cost
        self.scores |= group
        return True

    def _add_required(self, name: str, group: dict[str, float]) -> bool:
        if name not in self._tools:
            return False
        for required in self._tools[name].requires:
            if required not in group and required not in self.scores:
                group[required] = 0.0
                if not self._add_required(required, group):
                    return False
        return True


class _ToolNodes(BaseRetriever):
    """The chosen tools as nodes, for whoever asks an `ObjectRetriever` for its retriever."""

    def __init__(self, tools: QuadrieveToolRetriever) -> None:
        super().__init__()
        self._tools = tools

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return self._tools.offer(query_bundle.query_str)


def _node(tool: Tool, score: float) -> NodeWithScore:
    node = TextNode(id_=content_id("tool", tool.name), text=tool.describe(), metadata={"name": tool.name})
    return NodeWithScore(node=node, score=score)


def _text(query: QueryType) -> str:
    return query if isinstance(query, str) else query.query_str
