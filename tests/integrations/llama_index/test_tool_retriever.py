"""QuadrieveToolRetriever: the right tools on offer, and the one that is called found, in every kind of agent.

What LlamaIndex states of its own object retrievers holds, but for one difference: its ids are hashes that differ
from process to process; these are hashes of the name, so that a toolbox on disk is written once.
"""

import asyncio
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from llama_index.core.agent.workflow import AgentWorkflow, FunctionAgent, ReActAgent, ToolCallResult
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.objects import ObjectRetriever
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.tools import BaseTool, FunctionTool
from llama_index.core.workflow import Context
from tests.integrations.llama_index.catalogue import CONVERSATION, needed, tools
from tests.integrations.llama_index.scripted import ScriptedLLM

from llama_index_quadrieve import QuadrieveToolRetriever
from llama_index_quadrieve.conversation import Conversation
from quadrieve import Embedder, InputError, Tool, Toolbox


def get_weather(city: str) -> str:
    """Current weather of a city."""
    return f"It rains in {city}."


def send_mail(to: str) -> str:
    """Send an e-mail."""
    return f"Sent to {to}."


def find_contact(name: str) -> str:
    """Look up somebody's e-mail address."""
    return f"{name}@example.com"


def pay(amount: float) -> str:
    """Transfer money to a bank account."""
    return f"Paid {amount}."


FEW = [get_weather, send_mail, find_contact, pay]


@pytest.fixture
def box(embedder: Embedder) -> Toolbox:
    return Toolbox.open(None, embedder=embedder)


@pytest.fixture(scope="module")
def office(embedder: Embedder) -> Toolbox:
    """Five hundred tools, embedded once."""
    box = Toolbox.open(None, embedder=embedder)
    QuadrieveToolRetriever(box, tools())
    return box


def names(found: Sequence[BaseTool]) -> list[str]:
    return [tool.metadata.get_name() for tool in found]


def test_it_is_an_object_retriever_with_nodes_and_a_mapping(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, FEW, 2)
    assert isinstance(retriever, ObjectRetriever)
    nodes = retriever.retriever.retrieve("Is it raining in Oslo?")
    assert [retriever.object_node_mapping.from_node(n.node) for n in nodes] == retriever.retrieve(
        "Is it raining in Oslo?"
    )
    assert nodes[0].node.metadata == {"name": "get_weather"}
    assert nodes[0].score is not None
    assert 0.2 < nodes[0].score <= 1


async def test_it_finds_by_meaning_and_by_exact_name(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, FEW, 1)
    assert names(retriever.retrieve("Do I need an umbrella in Oslo?")) == ["get_weather"]
    for tool in FEW:
        assert names(retriever.retrieve(tool.__name__)) == [tool.__name__]
        assert names(await retriever.aretrieve(tool.__name__)) == [tool.__name__]


def test_the_tools_are_the_very_ones_that_were_given(box: Toolbox) -> None:
    tool = FunctionTool.from_defaults(get_weather, return_direct=True)
    [found] = QuadrieveToolRetriever(box, [tool]).retrieve("get_weather")
    assert found is tool


def test_a_message_that_is_a_tools_name_is_offered_more_than_that(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, FEW, 2)
    offered = names(retriever._answer("pay", Conversation(request="pay", said=("pay",))))
    assert offered[0] == "pay"
    assert len(offered) >= 2


def test_nothing_asked_offers_only_what_is_always_there(box: Toolbox) -> None:
    assert names(QuadrieveToolRetriever(box, FEW, always=["pay"]).retrieve("")) == ["pay"]


def test_tools_can_be_always_on_and_bring_what_they_require(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, FEW, 1, always=["pay"], requires={"send_mail": ["find_contact"]})
    assert names(retriever.retrieve("Send an e-mail to Ada.")) == ["pay", "send_mail", "find_contact"]
    assert names(retriever.retrieve("Is it raining?")) == ["pay", "get_weather"]


def test_called_tools_stay_on_offer_and_keep_their_place(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, FEW, 1)
    called = ("pay", "find_contact")
    for request in ("Is it raining?", "And in Rome?"):
        offer = retriever.offer(request, Conversation(request, (request,), called))
        assert [n.node.metadata["name"] for n in offer][:2] == ["pay", "find_contact"]
    retriever.keep_called = 1
    assert [n.node.metadata["name"] for n in retriever.offer("Is it raining?", Conversation(called=called))] == [
        "find_contact",
        "get_weather",
    ]


def test_a_follow_up_is_read_with_what_was_said_before(box: Toolbox) -> None:
    said = ("What is the weather in Oslo?", "And the day after?")
    retriever = QuadrieveToolRetriever(box, [*FEW, *tools()[::25]], 1)
    for history, found in ((1, True), (0, False)):
        retriever.history = history
        offer = retriever.offer(said[-1], Conversation(said[-1], said))
        assert ("get_weather" in [n.node.metadata["name"] for n in offer]) is found


def test_a_budget_holds(box: Toolbox) -> None:
    cost = {tool.__name__: box.count_tokens(_described(tool)) for tool in FEW}
    budget = cost["send_mail"] + cost["find_contact"] - 1
    retriever = QuadrieveToolRetriever(box, FEW, 4, requires={"send_mail": ["find_contact"]}, max_tokens=budget)
    offered = names(retriever.retrieve("Send an e-mail to Ada."))
    assert "send_mail" not in offered
    assert sum(cost[name] for name in offered) <= budget


def _described(tool: Any) -> str:
    metadata = FunctionTool.from_defaults(tool).metadata
    return Tool(metadata.get_name(), metadata.description, metadata.get_parameters_dict()).describe()


def test_what_is_not_permitted_is_neither_offered_nor_run(box: Toolbox) -> None:
    permissions = {"pay": ["money"]}
    clerk = QuadrieveToolRetriever(box, FEW, 4, permissions=permissions, allowed=[])
    assert "pay" not in names(clerk.retrieve("Transfer 10 euros to Ada."))
    assert "pay" not in names(clerk.retrieve("pay"))
    banker = QuadrieveToolRetriever(box, FEW, 4, permissions=permissions, allowed=["money"])
    assert names(banker.retrieve("Transfer 10 euros to Ada."))[0] == "pay"
    never = QuadrieveToolRetriever(
        box, FEW, 4, requires={"send_mail": ["pay"]}, allowed=lambda tool: tool.name != "pay"
    )
    assert {"pay", "send_mail"}.isdisjoint(names(never.retrieve("Send an e-mail to Ada.")))


def test_other_tools_of_the_toolbox_are_not_offered(box: Toolbox) -> None:
    QuadrieveToolRetriever(box, FEW)
    assert names(QuadrieveToolRetriever(box, [pay], 4).retrieve("Is it raining in Oslo?")) == ["pay"]


def test_tools_can_be_added_while_it_runs(box: Toolbox) -> None:
    retriever = QuadrieveToolRetriever(box, [pay], 1)
    retriever.add([get_weather], usage={"get_weather": ["Do I need a coat?"]})
    assert names(retriever.retrieve("Do I need a coat?")) == ["get_weather"]


def test_postprocessors_see_the_chosen_tools(box: Toolbox) -> None:
    sure = SimilarityPostprocessor(similarity_cutoff=0.3)
    retriever = QuadrieveToolRetriever(box, FEW, 4, node_postprocessors=[sure])
    assert names(retriever.retrieve("What is the weather of the city of Oslo?")) == ["get_weather"]


def test_wrong_names_are_named(box: Toolbox) -> None:
    with pytest.raises(InputError, match="always names 'mail'"):
        QuadrieveToolRetriever(box, FEW, always=["mail"])
    with pytest.raises(InputError, match="requires names 'contacts'"):
        QuadrieveToolRetriever(box, FEW, requires={"send_mail": ["contacts"]})
    with pytest.raises(InputError, match="usage names 'mail'"):
        QuadrieveToolRetriever(box, FEW, usage={"mail": ["Write to Ada."]})
    with pytest.raises(InputError, match="Two tools have the name 'pay'"):
        QuadrieveToolRetriever(box, [pay, pay])


@pytest.mark.models
def test_another_process_finds_the_tools_embedded_under_the_same_ids(embedder: Embedder, tmp_path: Path) -> None:
    program = f"""
from llama_index.core.tools import FunctionTool
from llama_index_quadrieve import QuadrieveToolRetriever
from quadrieve import Embedder, RoleView, Toolbox
encoded = []
embed = RoleView.embed_keys
RoleView.embed_keys = lambda view, texts, **options: (encoded.extend(texts), embed(view, texts, **options))[1]
def pay(amount: float) -> str:
    "Transfer money to a bank account."
with Toolbox.open({str(tmp_path / "tools")!r}, embedder=Embedder.load("minilm")) as box:
    [node] = QuadrieveToolRetriever(box, [pay]).retriever.retrieve("Send 10 euros.")
print(node.node_id, len(encoded))
"""
    runs = [
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
        for _ in range(2)
    ]
    assert runs[0][0] == runs[1][0]
    assert [run[1] for run in runs] == ["1", "0"]


def scripted(names: list[str], messages: Sequence[ChatMessage]) -> str | tuple[str, dict[str, Any]]:
    """Calls the tool that the message needs where it is on offer, and answers when it has run."""
    if messages[-1].role.value == "tool":
        return "Done."
    tool = needed(str(messages[-1].content))
    return (tool, {"what": "as asked"}) if tool in names else "I have no tool for that."


@pytest.mark.models
@pytest.mark.parametrize("kind", ["function agent", "workflow"])
async def test_an_agent_with_500_tools_finds_the_right_one_in_30_turns(
    office: Toolbox, embedder: Embedder, kind: str
) -> None:
    ran: list[str] = []
    llm = ScriptedLLM(script=scripted)
    retriever = QuadrieveToolRetriever(office, tools(ran.append))
    agent = FunctionAgent(llm=llm, tool_retriever=retriever)
    runner = agent if kind == "function agent" else AgentWorkflow(agents=[agent])
    ctx = Context(runner)
    not_found, offered = [], 0
    for asked in CONVERSATION:
        first = len(llm.offered)
        handler = runner.run(user_msg=asked.text, ctx=ctx)
        async for event in handler.stream_events():
            if isinstance(event, ToolCallResult) and "not found" in str(event.tool_output.content):
                not_found.append(event.tool_name)
        await handler
        offered += asked.tool in llm.offered[first]
    assert not_found == []
    assert offered / len(CONVERSATION) >= 0.95
    assert len(ran) == offered
    assert max(map(len, llm.offered)) <= retriever.similarity_top_k + retriever.keep_called


async def test_conversations_at_the_same_time_do_not_mix(office: Toolbox) -> None:
    """One agent, two conversations turn by turn: what one has called is not kept for the other."""
    llm = ScriptedLLM(script=scripted)
    agent = FunctionAgent(llm=llm, tool_retriever=QuadrieveToolRetriever(office, tools(), 3))
    first, second = Context(agent), Context(agent)
    await asyncio.gather(
        agent.run(user_msg="What's the weather like in Oslo?", ctx=first),
        agent.run(user_msg="Approve the holiday request of my colleague Jo.", ctx=second),
    )
    seen = len(llm.offered)
    await agent.run(user_msg="And the same for Paris?", ctx=first)
    assert "get_weather" in llm.offered[seen]
    assert "approve_holiday_request" not in llm.offered[seen]


async def test_it_remembers_what_was_called_through_a_memory_alone(office: Toolbox) -> None:
    """A new context with the memory of an old one: the tools called then are on offer still."""
    llm = ScriptedLLM(script=scripted)
    memory = ChatMemoryBuffer.from_defaults(token_limit=3000)
    agent = FunctionAgent(llm=llm, tool_retriever=QuadrieveToolRetriever(office, tools(), 1, history=0))
    await agent.run(user_msg="What's the weather like in Oslo?", memory=memory)
    seen = len(llm.offered)
    await agent.run(user_msg="And the same for Paris?", memory=memory)
    assert "get_weather" in llm.offered[seen]


async def test_a_react_agent_calls_what_it_was_offered(office: Toolbox) -> None:
    ran: list[str] = []

    def react(_: list[str], messages: Sequence[ChatMessage]) -> str:
        if "Observation:" in str(messages[-1].content):
            return "Thought: I know.\nAnswer: Done."
        tool = needed(str(messages[-1].content))
        offered = f"> Tool Name: {tool}\n" in str(messages[0].content)
        call = f'Thought: I need a tool.\nAction: {tool}\nAction Input: {{"what": "it"}}'
        return call if offered else "Thought: There is none.\nAnswer: No."

    agent = ReActAgent(
        llm=ScriptedLLM(script=react), tool_retriever=QuadrieveToolRetriever(office, tools(ran.append), 3)
    )
    ctx = Context(agent)
    for asked in CONVERSATION[:4]:
        await agent.run(user_msg=asked.text, ctx=ctx)
    assert ran == [asked.tool for asked in CONVERSATION[:4]]


async def test_a_tool_that_does_not_exist_is_said_not_to(office: Toolbox) -> None:
    def inventive(names: list[str], messages: Sequence[ChatMessage]) -> str | tuple[str, dict[str, Any]]:
        return "Sorry." if messages[-1].role.value == "tool" else ("make_coffee", {})

    llm = ScriptedLLM(script=inventive)
    agent = FunctionAgent(llm=llm, tool_retriever=QuadrieveToolRetriever(office, tools(), 3))
    await agent.run(user_msg="What's the weather like in Oslo?")
    assert "make_coffee not found" in str(llm.prompts[-1][-1].content)
