"""An agent is offered the tools that its user's turn needs, and no others."""

from __future__ import annotations

import logging

import pytest
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, SummarizationMiddleware
from langchain_core.language_models import FakeListChatModel
from langchain_core.messages import AIMessage, ToolMessage
from langchain_core.tools import StructuredTool, tool
from langgraph.checkpoint.memory import InMemorySaver

from langchain_quadrieve import ToolSelectionMiddleware
from quadrieve import InputError, StoreError, Tool, Toolbox

THREAD = {"configurable": {"thread_id": "1"}}
WEATHER, MAIL, MONEY = "What is the weather in Oslo?", "Write Imke an e-mail.", "Convert a dollar into crowns."


@tool
def get_weather(city: str) -> str:
    """Get the current weather of a city."""
    return f"Rain in {city}."


@tool
def send_email(to: str, body: str) -> str:
    """Send an e-mail to somebody."""
    return "sent"


@tool
def convert_currency(amount: float) -> str:
    """Convert an amount of money from one currency to another."""
    return "1"


@tool
def ask_human(question: str) -> str:
    """Hand the conversation to a colleague."""
    return "yes"


TOOLS = [get_weather, send_email, convert_currency, ask_human]


def made(name, description, **metadata):
    return StructuredTool.from_function(lambda: name, name=name, description=description, metadata=metadata)


def call(name, **args):
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


def calling(name, **args):
    """A script that calls a tool once in a turn, and then answers."""
    return lambda messages, _: AIMessage("Done.") if isinstance(messages[-1], ToolMessage) else call(name, **args)


def say(agent, text, context=None, config=THREAD):
    return agent.invoke({"messages": [("user", text)]}, config, context=context)


@pytest.fixture
def agent_of(embedder, scripted):
    """An agent with a checkpointer, and the model that keeps what it was offered."""

    def make(script=lambda *_: AIMessage("Done."), tools=TOOLS, middleware=(), **options):
        model = scripted(script)
        select = ToolSelectionMiddleware(**({"embedder": embedder} | options))
        return model, create_agent(model, tools, middleware=[*middleware, select], checkpointer=InMemorySaver())

    return make


@pytest.mark.parametrize("asynchronous", [False, True])
async def test_the_right_tool_is_offered_and_can_be_called(agent_of, asynchronous):
    model, agent = agent_of(calling("get_weather", city="Oslo"), max_tools=1)
    asked = {"messages": [("user", WEATHER)]}
    result = await agent.ainvoke(asked, THREAD) if asynchronous else agent.invoke(asked, THREAD)
    assert model.offers == [["get_weather"], ["get_weather"]]
    assert [m.text for m in result["messages"] if isinstance(m, ToolMessage)] == ["Rain in Oslo."]
    assert result["tool_selection"]["offered"] == ["get_weather"]
    assert 0 < result["tool_selection"]["why"]["get_weather"]["score"] <= 1


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", ["send_email", "launch_rocket"])
async def test_a_call_to_a_tool_that_was_not_offered_is_refused(agent_of, asynchronous, name):
    _, agent = agent_of(calling(name, to="a", body="b"), max_tools=1)
    asked = {"messages": [("user", WEATHER)]}
    result = await agent.ainvoke(asked, THREAD) if asynchronous else agent.invoke(asked, THREAD)
    [refusal] = [m for m in result["messages"] if isinstance(m, ToolMessage)]
    assert refusal.status == "error"
    assert refusal.text == f"The tool {name!r} is not offered in this turn; offered are get_weather."


def test_a_selection_holds_for_its_turn_whatever_is_said_in_it(agent_of):
    def script(messages, names):
        said = sum(isinstance(message, ToolMessage) for message in messages)
        return call("get_weather", city="Convert an amount of money") if said < 3 else AIMessage("Done.")

    model, agent = agent_of(script, max_tools=1)
    say(agent, WEATHER)
    assert model.offers == [["get_weather"]] * 4


def test_tools_stay_in_their_places_until_another_one_is_needed(agent_of):
    model, agent = agent_of(max_tools=2)
    for text in (WEATHER, "What is the weather in Bergen?", "And in Paris?", MONEY, MAIL, MONEY):
        say(agent, text)
    for before, after in zip(model.offers, model.offers[1:], strict=False):
        added = [name for name in after if name not in before]
        assert after == before or added
        assert after[len(after) - len(added) :] == added
        survivors = [name for name in before if name in after]
        assert after[: len(survivors)] == survivors
    assert model.offers[0] == model.offers[1]
    assert "convert_currency" in model.offers[3]
    assert "send_email" in model.offers[4]


def test_what_is_always_wanted_is_there_first_and_on_top(agent_of):
    model, agent = agent_of(max_tools=1, always=["ask_human", "not_there"])
    result = say(agent, WEATHER)
    assert model.offers == [["ask_human", "get_weather"]]
    assert result["tool_selection"]["why"]["ask_human"]["always"] is True


def test_a_follow_up_is_understood_from_the_turns_before(agent_of):
    model, agent = agent_of(max_tools=1)
    say(agent, WEATHER)
    say(agent, "And in Bergen?")
    assert model.offers[-1] == ["get_weather"]


def test_descriptions_stay_within_their_budget(agent_of):
    model, agent = agent_of(max_tools=4, max_tokens=40)
    say(agent, WEATHER)
    assert 1 <= len(model.offers[0]) < 4
    assert model.offers[0][0] == "get_weather"


def test_tools_that_need_permission_are_offered_and_run_only_with_it(agent_of):
    secret = made("read_salary", "Look up the salary of a colleague.", permissions=["hr"])
    question = "What is the salary of my colleague?"
    model, agent = agent_of(
        calling("read_salary"), tools=[*TOOLS, secret], max_tools=5, allowed=lambda context: context["holds"]
    )
    refused = say(agent, question, {"holds": []})
    assert "read_salary" not in model.offers[0]
    assert "not offered" in refused["messages"][-2].text
    allowed = say(agent, question, {"holds": ["hr"]})
    assert "read_salary" in model.offers[-1]
    assert allowed["messages"][-2].text == "read_salary"
    say(agent, question, {"holds": []})
    assert "read_salary" not in model.offers[-1]


def test_permission_that_is_withdrawn_within_a_turn_holds_for_the_call(agent_of):
    holds = ["hr"]
    secret = made("read_salary", "Look up the salary of a colleague.", permissions=["hr"])

    def script(messages, names):
        holds.clear()
        return calling("read_salary")(messages, names)

    _, agent = agent_of(script, tools=[secret], allowed=lambda context: holds)
    assert "not offered" in say(agent, "What is my colleague's salary?")["messages"][-2].text


def test_what_a_tool_requires_comes_with_it(agent_of):
    tools = [
        made("move_event", "Shift a calendar entry to another time.", requires=["find_id"]),
        made("find_id", "Zzz."),
        *TOOLS,
    ]
    model, agent = agent_of(tools=tools, max_tools=1)
    result = say(agent, "Shift my calendar entry to nine.")
    assert model.offers == [["move_event", "find_id"]]
    assert result["tool_selection"]["why"]["find_id"]["required_by"] == "move_event"


def test_a_tool_always_wanted_waits_for_what_it_requires(agent_of):
    tools = [
        made("raise_salary", "Zzz.", requires=["read_salary"]),
        made("read_salary", "Zzz.", permissions=["hr"]),
        *TOOLS,
    ]
    model, agent = agent_of(tools=tools, max_tools=1, always=["raise_salary"], allowed=lambda context: context["holds"])
    say(agent, WEATHER, {"holds": []})
    assert model.offers[-1] == ["get_weather"]
    say(agent, WEATHER, {"holds": ["hr"]})
    assert set(model.offers[-1]) == {"raise_salary", "read_salary", "get_weather"}


def test_requests_that_a_tool_answers_help_to_find_it(agent_of):
    tools = [made("xq7", "Zzz.", usage=["Is it raining?", "Do I need an umbrella?"]), send_email, convert_currency]
    model, agent = agent_of(tools=tools, max_tools=1)
    say(agent, "Shall I take an umbrella with me?")
    assert model.offers == [["xq7"]]


class Arriving(AgentMiddleware):
    """Brings tools at run time, as a server does that is connected late."""

    def __init__(self):
        super().__init__()
        self.arrived = []

    def wrap_model_call(self, request, handler):
        return handler(request.override(tools=[*request.tools, *self.arrived]))

    def wrap_tool_call(self, request, handler):
        found = {tool.name: tool for tool in self.arrived}.get(request.tool_call["name"])
        return handler(request.override(tool=found) if found else request)


def test_tools_that_arrive_within_a_turn_are_added_at_the_end(agent_of):
    late = Arriving()

    def script(messages, names):
        if not isinstance(messages[-1], ToolMessage):
            late.arrived = [made("get_weather_alerts", "Get warnings of bad weather in a city.")]
            return call("get_weather", city="Oslo")
        return call("get_weather_alerts") if messages[-1].name == "get_weather" else AIMessage("Done.")

    model, agent = agent_of(script, middleware=[late], max_tools=1)
    result = say(agent, "Are there warnings of bad weather in Oslo?")
    assert model.offers == [["get_weather"]] + [["get_weather", "get_weather_alerts"]] * 2
    assert result["messages"][-2].text == "get_weather_alerts"


def test_a_tool_whose_description_changes_is_encoded_anew(agent_of):
    late = Arriving()
    model, agent = agent_of(tools=[get_weather], middleware=[late], max_tools=1)
    late.arrived = [made("helper", "Send an e-mail.")]
    say(agent, "Send an e-mail, please.")
    late.arrived = [made("helper", "Paint a fence.")]
    say(agent, "Paint the fence.", config={"configurable": {"thread_id": "2"}})
    assert model.offers == [["helper"], ["helper"]]


def test_a_toolbox_describes_its_tools_better_than_they_do(agent_of, embedder):
    box = Toolbox.open(None, embedder=embedder)
    box.register([Tool("ask_human", "Tell the fortune from coffee grounds."), Tool("gone", "Fortune of a sailor.")])
    model, agent = agent_of(toolbox=box, embedder=None, max_tools=1)
    say(agent, "Read my fortune!")
    assert model.offers == [["ask_human"]]


def test_a_providers_own_tools_are_kept(agent_of):
    model, agent = agent_of(tools=[*TOOLS, {"type": "web_search"}], max_tools=1)
    say(agent, WEATHER)
    assert model.offers == [["web_search", "get_weather"]]


def test_when_choosing_fails_all_tools_are_offered_with_a_warning(agent_of, embedder, caplog):
    box = Toolbox.open(None, embedder=embedder)
    secret = made("read_salary", "Look up the salary of a colleague.", permissions=["hr"])
    model, agent = agent_of(toolbox=box, tools=[*TOOLS, secret], embedder=None, max_tools=1, allowed=lambda _: [])
    box.close()
    with caplog.at_level(logging.WARNING, "langchain_quadrieve"):
        result = say(agent, WEATHER)
    assert model.offers == [[tool.name for tool in TOOLS]]
    assert "all 4 are offered" in caplog.text
    assert "fallback" in result["tool_selection"]["why"]["get_weather"]
    with pytest.raises(StoreError):
        box.select(WEATHER)


def test_after_a_fallback_tools_are_chosen_again(agent_of, embedder, monkeypatch):
    box = Toolbox.open(None, embedder=embedder)
    model, agent = agent_of(toolbox=box, tools=TOOLS, embedder=None, max_tools=1)
    with monkeypatch.context() as broken:
        broken.setattr(box.index, "search", lambda *_, **__: 1 / 0)
        say(agent, WEATHER)
    say(agent, MONEY)
    assert model.offers == [[tool.name for tool in TOOLS], ["convert_currency"]]


@pytest.mark.parametrize("content", [" ", [{"type": "image", "url": "https://example.org/a.png"}]])
def test_without_a_word_of_the_user_all_is_offered_that_is_allowed_and_no_more(agent_of, content):
    secret = made("read_salary", "Look up the salary of a colleague.", permissions=["hr"])
    script = calling("read_salary")
    model, agent = agent_of(script, tools=[*TOOLS, secret], max_tools=1, allowed=lambda _: [])
    result = agent.invoke({"messages": [{"role": "user", "content": content}]}, THREAD)
    assert model.offers == [[tool.name for tool in TOOLS]] * 2
    assert "not offered" in result["messages"][-2].text
    say(agent, WEATHER)
    assert model.offers[-1] == ["get_weather"]


def test_a_turn_that_was_summarized_goes_on_with_its_tools(agent_of):
    def script(messages, names):
        return call("get_weather", city="Oslo") if len(model.offers) == 1 else AIMessage("Done.")

    summarize = SummarizationMiddleware(
        FakeListChatModel(responses=["It rains."] * 9), trigger=("messages", 3), keep=("messages", 1)
    )
    model, agent = agent_of(script, middleware=[summarize], max_tools=1)
    result = say(agent, WEATHER)
    assert not any(message.text == WEATHER for message in result["messages"])
    assert model.offers == [["get_weather"]] * 2


def test_tools_that_are_handed_out_anew_are_not_described_anew(agent_of, embedder, monkeypatch):
    def served():
        schema = {"type": "object", "properties": {"color": {"type": "string"}}}
        return [StructuredTool(name="paint_fence", description="Paint it.", args_schema=schema, func=lambda **_: "")]

    late = Arriving()
    late.arrived = served()
    box = Toolbox.open(None, embedder=embedder)
    _, agent = agent_of(toolbox=box, embedder=None, middleware=[late])
    say(agent, WEATHER)
    monkeypatch.setattr(box, "register", lambda _: pytest.fail("described again"))
    late.arrived = served()
    assert "fallback" not in str(say(agent, MONEY)["tool_selection"])


def test_a_selection_survives_a_restart(embedder, scripted):
    def offered(saver, text):
        model = scripted(lambda *_: AIMessage("Done."))
        select = ToolSelectionMiddleware(embedder=embedder, max_tools=2)
        say(create_agent(model, TOOLS, middleware=[select], checkpointer=saver), text)
        return model.offers[0]

    saver = InMemorySaver()
    assert offered(saver, WEATHER)[0] == "get_weather"
    again = "Send Imke an e-mail about the weather forecast, and another one to Ada."
    assert offered(saver, again) == ["get_weather", "send_email"]
    assert offered(InMemorySaver(), again) == ["send_email", "get_weather"]


def test_nonsense_is_refused(embedder):
    with pytest.raises(InputError, match="neither"):
        ToolSelectionMiddleware()
    with pytest.raises(InputError, match="max_tools"):
        ToolSelectionMiddleware(embedder=embedder, max_tools=0)
