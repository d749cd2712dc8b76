"""The four roles, each shown on a few cases: what the model says with what was retrieved, and without."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from langchain.agents import create_agent
from langchain_core.messages import AIMessage, HumanMessage
from llama_index.core.prompts import PromptTemplate
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers import ResponseMode, get_response_synthesizer

from langchain_quadrieve import ToolSelectionMiddleware
from llama_index_quadrieve import QuadrieveRetriever
from quadrieve import Embedder, ExampleBank, KnowledgeBase, Memory, Role, Toolbox

from . import texts
from .agent_langchain import runnable
from .reader import Reader
from .reader_langchain import ReaderChat
from .reader_llama_index import ReaderLLM

_ANSWER = "Answer in a few words."
_PASSAGES = PromptTemplate(
    "{context_str}\n\nAnswer in a few words, only from the text above.\nQuestion: {query_str}", prompt_type="text_qa"
)
_NOTES = "Answer in a few words from the notes."


@dataclass(frozen=True)
class Case:
    """One thing asked, and what the reading model made of it.

    Attributes:
        role: The role that helped.
        asked: What was asked.
        without: What the model says of itself.
        retrieved: What was found for it, as short lines.
        said: What the model says with that.
        right: What it should say.
        found: Whether what was retrieved holds it.
        answered: Whether the model says it.
    """

    role: Role
    asked: str
    without: str
    retrieved: Sequence[str]
    said: str
    right: str
    found: bool
    answered: bool


def knowledge(embedder: Embedder, reader: Reader, *, every: bool) -> Iterator[Case]:
    """A LlamaIndex query engine over passages that no language model has read."""
    passages = texts.read("passages")
    with KnowledgeBase.open(None, embedder=embedder) as kb:
        kb.add([f"{row['title']}: {row['text']}" for row in passages], ids=[row["id"] for row in passages])
        engine = RetrieverQueryEngine(
            QuadrieveRetriever(kb, similarity_top_k=1),
            get_response_synthesizer(
                llm=ReaderLLM(reader=reader), text_qa_template=_PASSAGES, response_mode=ResponseMode.SIMPLE_SUMMARIZE
            ),
        )
        for row in _cases("questions", every, 3, 6, 11):
            response = engine.query(row["question"])
            said, nodes = str(response), response.source_nodes
            yield Case(
                Role.KNOWLEDGE,
                row["question"],
                reader.reply([{"role": "user", "content": f"{_ANSWER}\nQuestion: {row['question']}"}]),
                [f"{node.node_id} ({node.score or 0.0:.2f})" for node in nodes],
                said,
                row["answer"],
                any(_says(node.text, row["answer"]) for node in nodes),
                _says(said, row["answer"]),
            )


def memory(embedder: Embedder, reader: Reader, *, every: bool) -> Iterator[Case]:
    """A reply that needs what was said in a session weeks before."""
    with Memory.open(None, embedder=embedder, user="islander") as past:
        for turn in texts.read("turns"):
            past.remember([("user", turn["user"]), ("assistant", turn["assistant"])], at=turn["at"])
        for row in _cases("recalls", every, 1, 3, 4):
            hits = past.recall(row["message"], k=1)
            quoted = "\n".join(f"> {line}" for hit in hits for line in hit.text.splitlines() if line.startswith("User"))
            said = reader.reply(_with_notes(f"Notes:\n{quoted}\n\nQuestion: {row['message']}"))
            yield Case(
                Role.MEMORY,
                row["message"],
                reader.reply(_with_notes(f"Question: {row['message']}")),
                [f"{_short(hit.text)} ({hit.score:.2f})" for hit in hits],
                said,
                row["answer"],
                any(_says(hit.text, row["answer"]) for hit in hits),
                _says(said, row["answer"]),
            )


def example(embedder: Embedder, reader: Reader, *, every: bool) -> Iterator[Case]:
    """A label that follows from how similar cases were solved."""
    with ExampleBank.open(None, embedder=embedder) as bank:
        solved = texts.examples()
        bank.add_many(solved)
        for row in _cases("example_queries", every, 1, 4, 7):
            labels = sorted({case.output for case in solved if case.task == row["task"]})
            shown = bank.select(row["input"], k=8, task=row["task"])
            lines = "".join(f"{case.input} => {case.output}\n" for case in shown)

            def most_likely(prompt: str, among: Sequence[str] = labels) -> str:
                likely = reader.log_likelihoods(prompt, [f" {label}" for label in among])
                return among[likely.index(max(likely))]

            said = most_likely(f"{row['task']}\n{lines}{row['input']} =>")
            yield Case(
                Role.EXAMPLE,
                row["input"],
                most_likely(f"{row['task']}\n{row['input']} =>"),
                [f"{_short(case.input)} => {case.output} ({case.score:.2f})" for case in shown[-2:]],
                said,
                row["output"],
                any(case.output == row["output"] for case in shown),
                said == row["output"],
            )


def tool(embedder: Embedder, reader: Reader, *, every: bool) -> Iterator[Case]:
    """A LangChain agent that is offered five tools of all, and calls one."""
    with Toolbox.open(None, embedder=embedder) as box:
        tools = texts.tools()
        box.register(tools)
        model = ReaderChat(reader=reader)
        agent: Any = create_agent(
            model, list(map(runnable, tools)), middleware=[ToolSelectionMiddleware(box, max_tools=5)]
        )
        alone: Any = create_agent(model, [])
        for row in _cases("tool_requests", every, 0, 3, 9):
            said = agent.invoke({"messages": [HumanMessage(row["request"])]})["messages"]
            call = next(call for message in said if isinstance(message, AIMessage) for call in message.tool_calls)
            offered = [hit.name for hit in box.select(row["request"], k=5)]
            yield Case(
                Role.TOOL,
                row["request"],
                alone.invoke({"messages": [HumanMessage(row["request"])]})["messages"][-1].text,
                [f"{len(offered)} of {len(tools)}: {', '.join(offered)}"],
                f"{call['name']}({', '.join(f'{key}={value!r}' for key, value in call['args'].items())})",
                row["tool"],
                row["tool"] in offered,
                call["name"] == row["tool"],
            )


SHOWS: dict[Role, Callable[..., Iterator[Case]]] = {
    Role.KNOWLEDGE: knowledge,
    Role.MEMORY: memory,
    Role.EXAMPLE: example,
    Role.TOOL: tool,
}


def _cases(name: str, every: bool, *rows: int) -> list[dict[str, Any]]:
    """All cases of a file, or those rows of it."""
    written = texts.read(name)
    return written if every else [written[row] for row in rows]


def _with_notes(question: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": _NOTES}, {"role": "user", "content": question}]


def _says(text: str, answer: str) -> bool:
    return answer.casefold() in text.casefold()


def _short(text: str) -> str:
    line = text.splitlines()[0]
    return line if len(line) <= 60 else f"{line[:59]}…"
