"""A knowledge base is a LangChain retriever, a document index and a tool."""

from __future__ import annotations

import pytest
from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.documents import Document
from langchain_core.indexing import InMemoryRecordManager, index
from langchain_core.messages import ToolMessage
from pydantic import ValidationError

from langchain_quadrieve import QuadrieveRetriever
from quadrieve import InputError, KnowledgeBase

DOCUMENTS = [
    Document("Bees make honey from nectar.", id="bees", metadata={"topic": "food", "year": 2020, "a": {"b": [1, 2]}}),
    Document("The bus to the harbour leaves at nine.", id="bus", metadata={"topic": "travel", "year": 2024}),
    Document("Honey keeps for years in a closed jar.", id="jar", metadata={"topic": "food", "year": 2024}),
    Document("Wasps sting."),
]
QUESTION = "Where does honey come from?"


@pytest.fixture
def retriever(embedder):
    return QuadrieveRetriever.from_documents(DOCUMENTS, embedder=embedder)


def ids(documents):
    return [document.id for document in documents]


def test_documents_come_back_as_they_were_best_first(retriever):
    found = retriever.invoke(QUESTION)
    assert found[0] == DOCUMENTS[0]
    assert len(found) == 4
    assert found[3].id


async def test_every_setting_holds_in_the_constructor_and_for_a_call(retriever):
    kb = retriever.knowledge_base
    settings = [
        ({"k": 1}, ["bees"]),
        ({"where": {"topic": "food", "year": {"$gt": 2020}}}, ["jar"]),
        ({"where": {"a.b": {"$contains": 2}}}, ["bees"]),
        ({"mode": "lexical", "k": 1}, ["bees"]),
        ({"min_score": 0.99}, []),
        ({"diversity": 1.0, "k": 2, "where": {"topic": {"$in": ["food", "travel"]}}}, ["bees", "bus"]),
    ]
    for setting, expected in settings:
        assert ids(QuadrieveRetriever(knowledge_base=kb, **setting).invoke(QUESTION)) == expected
        assert ids(retriever.invoke(QUESTION, **setting)) == expected
        assert ids(await retriever.ainvoke(QUESTION, **setting)) == expected


async def test_it_works_asynchronously_and_in_batches(retriever, embedder):
    built = await QuadrieveRetriever.afrom_documents(DOCUMENTS, embedder=embedder, k=1)
    assert ids(await built.ainvoke(QUESTION)) == ["bees"]
    assert ids(await retriever.ainvoke(QUESTION, k=1)) == ["bees"]
    assert [ids(found) for found in retriever.batch([QUESTION, "When does the bus leave?"], k=1)] == [["bees"], ["bus"]]
    assert [ids(found) for found in await retriever.abatch([QUESTION], k=1)] == [["bees"]]


def test_scores_and_ranks_are_in_the_metadata_where_asked(retriever):
    scored = QuadrieveRetriever(knowledge_base=retriever.knowledge_base, k=1, score_key="score", why_key="why")
    [document] = scored.invoke(QUESTION)
    assert 0.3 < document.metadata["score"] <= 1
    assert document.metadata["why"]["dense"] == 1
    assert "score" not in retriever.invoke(QUESTION)[0].metadata


def test_it_opens_what_lies_there(tmp_path, embedder):
    with KnowledgeBase.open(tmp_path, embedder=embedder) as kb:
        kb.add(["Bees make honey."], ids=["bees"])
    retriever = QuadrieveRetriever.from_location(tmp_path, embedder=embedder, k=3)
    assert ids(retriever.invoke(QUESTION)) == ["bees"]
    retriever.knowledge_base.close()


def test_a_misspelt_setting_is_refused(retriever):
    with pytest.raises(ValidationError, match="top_k"):
        QuadrieveRetriever(knowledge_base=retriever.knowledge_base, top_k=3)
    with pytest.raises(TypeError, match="top_k"):
        retriever.invoke(QUESTION, top_k=3)


def test_callbacks_see_the_run_and_what_is_searched(retriever):
    class Watch(BaseCallbackHandler):
        seen: tuple = ()

        def on_retriever_start(self, serialized, query, *, metadata, **_):
            self.seen += (query, metadata["ls_retriever_name"], metadata["ls_embedding_model"])

        def on_retriever_end(self, documents, **_):
            self.seen += tuple(ids(documents))

    watch = Watch()
    retriever.invoke(QUESTION, {"callbacks": [watch]}, k=1)
    assert watch.seen == (QUESTION, "quadrieve", "RoleView(task='qa', model='quadrieve')", "bees")


def test_langchains_index_keeps_it_in_step_with_its_sources(embedder):
    retriever = QuadrieveRetriever.from_location(None, embedder=embedder)
    records = InMemoryRecordManager("test")
    records.create_schema()

    def sync(*texts):
        documents = [Document(text, metadata={"source": source}) for source, text in texts]
        return index(documents, records, retriever, cleanup="incremental", source_id_key="source", key_encoder="sha256")

    assert sync(("a", "Bees make honey."), ("b", "The bus leaves at nine."))["num_added"] == 2
    assert sync(("a", "Bees make honey."), ("b", "The bus leaves at nine."))["num_skipped"] == 2
    changed = sync(("b", "The bus leaves at ten."))
    assert (changed["num_added"], changed["num_deleted"]) == (1, 1)
    assert {d.page_content for d in retriever.invoke("bus")} == {"Bees make honey.", "The bus leaves at ten."}


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_as_a_tool_it_gives_the_text_and_keeps_the_documents(retriever, asynchronous):
    tool = retriever.as_tool(name="ask", description="Ask about bees.")
    call = {"name": "ask", "args": {"query": QUESTION}, "id": "1", "type": "tool_call"}
    message = await tool.ainvoke(call) if asynchronous else tool.invoke(call)
    assert isinstance(message, ToolMessage)
    assert message.text.startswith("Bees make honey")
    assert message.artifact[0] == DOCUMENTS[0]
    with pytest.raises(InputError, match="query"):
        retriever.as_tool(arg_types={"x": str})


def test_deleting_says_what_is_gone(retriever):
    assert retriever.delete(["bees", "nowhere"])["succeeded"] == ["bees"]
    assert retriever.delete(where={"topic": "food"})["num_deleted"] == 1
    with pytest.raises(InputError):
        retriever.delete()
    assert retriever.upsert([]) == {"succeeded": [], "failed": []}
