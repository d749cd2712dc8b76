"""On every public path each text is encoded behind the prefix of its role and side, and nothing else is encoded."""

from __future__ import annotations

from dataclasses import replace

import pytest
from langchain.agents import create_agent
from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate, FewShotChatMessagePromptTemplate
from langchain_core.tools import StructuredTool
from langchain_core.vectorstores import InMemoryVectorStore
from langgraph.store.base import PutOp, SearchOp
from langgraph.store.memory import InMemoryStore

from langchain_quadrieve import (
    MemoryMiddleware,
    QuadrieveEmbeddings,
    QuadrieveExampleSelector,
    QuadrieveRetriever,
    QuadrieveStore,
    ToolSelectionMiddleware,
)
from quadrieve import Embedder, Tool, Toolbox, tasks

PATHS = {}


class Spy(Embedder):
    """The packaged weights, as if trained with every task's prefixes; keeps the exact strings that it encodes."""

    @classmethod
    def load(cls):
        prompts = {
            f"{task.name}_{side}": getattr(task, f"{side}_prefix") for task in tasks() for side in ("query", "key")
        }
        spy = cls(replace(Embedder.load().checkpoint, prompts=prompts))
        spy.encoded = []
        return spy

    def encode(self, texts, *, prefix="", **options):
        self.encoded += [prefix + text for text in texts]
        return super().encode(texts, prefix=prefix, **options)


@pytest.fixture(scope="module")
def loaded():
    return Spy.load()


@pytest.fixture
def spy(loaded):
    loaded.encoded = []
    return loaded


def query(task, *texts):
    return [next(t.query_prefix for t in tasks() if t.name == task) + text for text in texts]


def key(task, *texts):
    return [next(t.key_prefix for t in tasks() if t.name == task) + text for text in texts]


def path(run):
    """A way to the encoder; it returns the strings that should have come there."""
    PATHS[run.__name__] = run
    return run


@path
async def embeddings(spy, scripted):
    for task in (task.name for task in tasks()):
        encode = QuadrieveEmbeddings(spy, task)
        encode.embed_documents(["a", "b"])
        encode.embed_query("c")
        await encode.aembed_documents(["d"])
        await encode.aembed_query("e")
        expected = key(task, "a", "b") + query(task, "c") + key(task, "d") + query(task, "e")
        assert spy.encoded == expected
        spy.encoded = []
    return []


@path
async def embeddings_by_the_name_of_a_role(spy, scripted):
    QuadrieveEmbeddings(spy, "memory").embed_query("a")
    QuadrieveEmbeddings(spy, "tool").embed_documents(["b"])
    return query("chat", "a") + key("tool", "b")


@path
async def embeddings_in_chroma(spy, scripted):
    store = Chroma("spied", QuadrieveEmbeddings(spy, "convsearch"))
    try:
        store.add_texts(["a", "b"])
        await store.aadd_documents([Document("c")])
        store.similarity_search("d")
        await store.asimilarity_search_with_score("e")
        store.max_marginal_relevance_search("f", k=1)
        store.as_retriever().batch(["g"])
    finally:
        store.delete_collection()
    return key("convsearch", "a", "b", "c") + query("convsearch", "d", "e", "f", "g")


@path
async def embeddings_in_a_vector_store_in_memory(spy, scripted):
    store = await InMemoryVectorStore.afrom_texts(["a", "b"], QuadrieveEmbeddings(spy, "qa"))
    store.similarity_search("c")
    await store.asimilarity_search("d")
    return key("qa", "a", "b") + query("qa", "c", "d")


@path
async def embeddings_in_langgraphs_store_in_memory(spy, scripted):
    store = InMemoryStore(index={"dims": 384, "embed": QuadrieveEmbeddings(spy, "chat"), "fields": ["text"]})
    store.put(("ns",), "1", {"text": "a"})
    await store.aput(("ns",), "2", {"text": "b"})
    store.search(("ns",), query="c")
    await store.asearch(("ns",), query="d")
    return key("chat", "a", "b") + query("chat", "c", "d")


@path
async def store(spy, scripted):
    with QuadrieveStore(embedder=spy) as store:
        store.put(("ns",), "1", {"text": "a", "other": "never"})
        await store.aput(("ns",), "2", {"text": "b"})
        store.put(("ns",), "3", {"text": "never"}, index=False)
        store.search(("ns",), query="c")
        await store.asearch(("ns",), query="d")
        store.search(("ns",), filter={"text": "never"})
        store.get(("ns",), "1")
    return key("chat", "a", "b") + query("chat", "c", "d")


@path
async def store_in_batches(spy, scripted):
    with QuadrieveStore(embedder=spy, index={"fields": ["text", "more[*]"]}, task="lrlm") as store:
        ops = [PutOp(("ns",), str(i), {"text": "a", "more": ["b", text]}) for i, text in enumerate("cd")]
        store.batch([SearchOp(("ns",), query="e"), *ops, SearchOp((), query="e")])
        await store.abatch([SearchOp((), query="f"), PutOp(("ns",), "0", {"title": "g"}, index=["title"])])
    return key("lrlm", "a", "b", "c", "d") + query("lrlm", "e") + key("lrlm", "g") + query("lrlm", "f")


@path
async def store_with_embeddings_of_another_role(spy, scripted):
    with QuadrieveStore(index={"dims": 384, "embed": QuadrieveEmbeddings(spy, "qa")}) as store:
        store.put(("ns",), "1", {"text": "a"})
        await store.asearch(("ns",), query="b")
    return key("qa", "a") + query("qa", "b")


@path
async def retriever(spy, scripted):
    retriever = QuadrieveRetriever.from_documents([Document("a"), Document("b", metadata={"c": "d"})], embedder=spy)
    await retriever.aupsert([Document("e"), Document("a")])
    retriever.invoke("f")
    await retriever.ainvoke("g", mode="dense", diversity=0.5)
    retriever.batch(["h"], where={"c": "d"})
    await retriever.abatch(["i"], min_score=0.5)
    retriever.as_tool().invoke({"query": "j"})
    await retriever.as_tool().ainvoke({"query": "k"})
    return key("qa", "a", "b", "e") + query("qa", "f", "g", "h", "i", "j", "k")


@path
async def retriever_of_a_conversation(spy, scripted):
    retriever = QuadrieveRetriever.from_location(None, embedder=spy, task="convsearch")
    retriever.upsert([Document("a")])
    retriever.invoke("b")
    return key("convsearch", "a") + query("convsearch", "b")


@path
async def selector(spy, scripted):
    examples = [{"input": "a", "output": "b", "lang": "c"}, {"input": {"d": 1}, "output": "e"}]
    selector = QuadrieveExampleSelector.from_examples(examples, embedder=spy, diversity=0.5)
    selector.add_example(examples[0])
    await selector.aadd_example({"input": "f", "output": "g"})
    selector.select_examples({"input": "h", "unrelated": "never"})
    await selector.aselect_examples({"input": "i"})
    pair = ChatPromptTemplate.from_messages([("human", "{input}"), ("ai", "{output}")])
    shots = FewShotChatMessagePromptTemplate(example_selector=selector, example_prompt=pair, input_variables=["input"])
    shots.format_messages(input="j")
    await shots.aformat_messages(input="k")
    return key("icl", "a\nb", '{"d":1}\ne', "f\ng") + query("icl", "h", "i", "j", "k")


@path
async def memory(spy, scripted):
    calls = iter([{"name": "remember", "args": {"text": "c"}}, {"name": "recall", "args": {"query": "d"}}] * 2)

    def script(messages, _):
        call = next(calls, None) if messages[-1].text in ("b", "e", "Kept.") else None
        return AIMessage("", tool_calls=[{**call, "id": call["name"]}]) if call else AIMessage("said")

    with QuadrieveStore(embedder=spy) as store:
        middleware = MemoryMiddleware(tools=["remember", "recall"])
        agent = create_agent(scripted(script), middleware=[middleware], store=store)
        agent.invoke({"messages": [("user", "b")]}, context={"user_id": "ada"})
        first = query("chat", "b") + key("chat", "c") + query("chat", "d") + key("chat", "User: b\nAssistant: said")
        assert spy.encoded == first
        spy.encoded = []
        await agent.ainvoke({"messages": [("user", "e")]}, context={"user_id": "bob"})
    return query("chat", "e") + key("chat", "c") + query("chat", "d") + key("chat", "User: e\nAssistant: said")


@path
async def tool_selection(spy, scripted):
    def made(name, **metadata):
        return StructuredTool.from_function(lambda: name, name=name, description="D.", metadata=metadata)

    model = scripted(
        lambda messages, _: (
            AIMessage("said")
            if isinstance(messages[-1], ToolMessage)
            else AIMessage("", tool_calls=[{"name": "b", "args": {}, "id": "1"}])
        )
    )
    select = ToolSelectionMiddleware(tools=[made("a"), made("b", usage=["c", "d"])], embedder=spy)
    assert spy.encoded == key("tool", "a: D.", "b: D.") + query("tool", "c", "d")
    spy.encoded = []
    agent = create_agent(model, [made("e")], middleware=[select])
    agent.invoke({"messages": [("user", "f")]})
    await agent.ainvoke({"messages": [("user", "g")]})
    await agent.ainvoke({"messages": [("user", "h"), ("assistant", "never"), ("user", "i")]})
    return key("tool", "e: D.") + query("tool", "f\nf", "g\ng", "i\ni\nh")


@path
async def tool_selection_from_a_toolbox(spy, scripted):
    box = Toolbox.open(None, embedder=spy)
    box.register([Tool("a", "D.")])
    tool = StructuredTool.from_function(lambda: "a", name="a", description="never")
    agent = create_agent(scripted(lambda *_: AIMessage("said")), [tool], middleware=[ToolSelectionMiddleware(box)])
    agent.invoke({"messages": [("user", "b")]})
    return key("tool", "a: D.") + query("tool", "b\nb")


@pytest.mark.parametrize("name", PATHS)
async def test_what_is_encoded(name, spy, scripted):
    expected = await PATHS[name](spy, scripted)
    assert spy.encoded == expected
