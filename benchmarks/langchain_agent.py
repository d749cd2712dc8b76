"""Choosing tools for an agent: 2,000 tools, 50 user turns, beside what else one can do, in one run.

A scripted model plays an agent built by `create_agent`: it calls the right tool if that is among those offered, and
then answers. Beside tool selection by embedding: BM25, LangChain's own selector (a scripted model gets its real
prompt, so its cost is real and its choice is not judged), and all tools in the prompt.

The tools are the demo's, with the two example requests that each has, and made ones of the kind that business servers
have by the hundred. Exit status 1 if a bar is missed.

Example: python benchmarks/langchain_agent.py --json langchain_agent.json
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from langchain.agents import create_agent
from langchain.agents.middleware import AgentMiddleware, LLMToolSelectorMiddleware
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import BaseTool, StructuredTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from langgraph.checkpoint.memory import InMemorySaver
from pydantic import Field

from langchain_quadrieve import ToolSelectionMiddleware
from quadrieve import Embedder

#: What must be reached at `max_tools=8`: share of turns with the right tool, milliseconds of a selection (p95).
RIGHT, MILLISECONDS = 0.95, 40.0

#: Ten conversations; each turn with the tool that it needs. A third of the turns mean little without the one before.
CONVERSATIONS = (
    (
        ("I want to take the boat out tonight. Is the sea rough around Gannet Rock?", "get_marine_forecast"),
        ("And when is low water in Tarrock tomorrow morning?", "get_tide_times"),
        ("What about the day after?", "get_tide_times"),
        ("Good. Put the trip in my calendar for Saturday at eight.", "create_event"),
        ("Make it nine instead.", "move_event"),
    ),
    (
        ("Which trains go from Halden to Oslo on Friday?", "search_trains"),
        ("How much would it cost to fly?", "search_flights"),
        ("I need somewhere to sleep there for two nights.", "search_hotels"),
        ("I have a Brazilian passport. Do I need a visa?", "get_entry_rules"),
        ("Oh well, call the whole trip off and get me my money back.", "cancel_booking"),
    ),
    (
        ("How much is 250 dollars in Norwegian crowns?", "convert_currency"),
        ("And how has that rate moved since spring?", "get_exchange_rate_history"),
        ("Send Teo 40 crowns for the pizza.", "transfer_money"),
        ("Has my salary come in this month?", "list_transactions"),
        ("Warn me when I spend more than 3000 a month on eating out.", "set_budget"),
    ),
    (
        ("It's freezing in the bathroom, make it 22 degrees in there.", "set_thermostat"),
        ("Dim the lamps in the living room.", "set_light_brightness"),
        ("Make them orange.", "set_light_color"),
        ("I'm in bed already. Is the front door bolted? If not, do it.", "lock_door"),
        ("Is anybody standing in the driveway?", "get_camera_snapshot"),
    ),
    (
        ("Did Imke write to me about the roof?", "search_mail"),
        ("Answer her that Thursday is fine.", "reply_to_email"),
        ("Send her message on to my landlord as well.", "forward_email"),
        ("I'm on holiday from Monday. Let people who write to me know.", "set_out_of_office"),
        ("And ring her up for me now.", "call_person"),
    ),
    (
        ("What can I make with leeks and half a tin of coconut milk?", "find_recipe"),
        ("We'll be six rather than two. How much do I need?", "scale_recipe"),
        ("I mustn't forget coconut milk when I'm at the supermarket.", "add_to_shopping_list"),
        ("Which drink goes with it?", "suggest_wine_pairing"),
        ("How long will what's left keep in the fridge?", "get_storage_advice"),
    ),
    (
        ("My script stops with TypeError: 'NoneType' object is not subscriptable. Why?", "explain_error"),
        ("Where in the repository do we call fetch_tides?", "search_code"),
        ("Fixed it. Try all the tests again and tell me what fails.", "run_unit_tests"),
        ("Great. Offer my branch to the others for review.", "create_pull_request"),
        ("Now put the new build on staging.", "deploy_service"),
    ),
    (
        ("I've just taken my blood pressure pill.", "log_medication"),
        ("May I have ibuprofen with it?", "check_drug_interactions"),
        ("Tell me to take it every morning at eight.", "set_medication_reminder"),
        ("I need a dermatologist somewhere near Tarrock.", "find_doctor"),
        ("Get me in there next Tuesday.", "book_doctor_appointment"),
    ),
    (
        ("Type out everything that is said in interview.m4a.", "transcribe_audio"),
        ("How do you say 'the boiler is broken' in Norwegian?", "translate_text"),
        ("Cut the first ten seconds off clip.mp4.", "trim_video"),
        ("Show me the pictures I took of puffins.", "search_photos"),
        ("Make the second one small enough for a postcard.", "resize_image"),
    ),
    (
        ("Where has my parcel RK88213 got to?", "track_package"),
        ("The boots in it don't fit. I want to send them back.", "return_item"),
        ("Tell me as soon as the red ones cost less than 80 crowns.", "set_price_alert"),
        ("What do other buyers say about them?", "get_product_reviews"),
        ("Which shop has them cheapest right now?", "compare_prices"),
    ),
)

#: What business tools are about, and what they do with it.
THINGS = (
    """
purchase order, supplier, warehouse bay, stock level, shipment, delivery route, customs declaration, freight
contract, sales lead, sales quota, customer ticket, refund request, loyalty card, gift voucher, newsletter campaign,
press release, web banner, survey, trade fair stand, franchise, payroll run, expense claim, job posting, applicant,
interview slot, shift roster, training course, staff badge, pension plan, leave request, cost centre, ledger entry,
tax return, audit finding, asset register, lease agreement, insurance claim, loan application, credit limit, share
register, board resolution, court hearing, patent filing, trademark, licence key, data processing agreement, risk
assessment, fire drill, safety inspection, incident report, patient record, lab sample, ward bed, blood bank unit,
vaccine batch, ambulance crew, clinical trial, prescription order, school class, exam paper, library loan, lecture
hall, scholarship, research grant, museum exhibit, theatre ticket batch, choir rehearsal, photo shoot, video asset,
podcast sponsor, film reel, translation job, book manuscript, hotel contract, room inventory, tour group, cruise
cabin, flight roster, runway slot, train set, bus depot, bridge toll, parking permit, street light, water main,
weather station, tide gauge, solar farm, power meter, wind turbine, robot arm, server rack, database cluster,
network switch, firewall rule, build agent, feature flag, mailing list, chat channel, meeting room
""".replace("\n", " ")
    .strip()
    .split(", ")
)
ACTIONS = (
    ("create", "Creates a new {}."),
    ("get", "Returns one {} by its identifier."),
    ("list", "Lists every {} there is."),
    ("update", "Changes the details of a {}."),
    ("delete", "Deletes a {} for good."),
    ("search", "Finds a {} by words in its title."),
    ("archive", "Moves a {} into the archive."),
    ("restore", "Brings an archived {} back."),
    ("export", "Saves a {} as a spreadsheet."),
    ("import", "Reads a {} from a spreadsheet."),
    ("assign", "Makes a colleague responsible for a {}."),
    ("approve", "Gives a {} its final approval."),
    ("reject", "Turns a {} down with a reason."),
    ("duplicate", "Makes a copy of a {}."),
    ("lock", "Keeps others from changing a {}."),
    ("share", "Lets another department see a {}."),
    ("tag", "Puts a label on a {}."),
    ("comment_on", "Writes a remark under a {}."),
    ("watch", "Tells you whenever a {} changes."),
    ("price", "Works out what a {} costs."),
)


def catalogue(n: int) -> list[StructuredTool]:
    """The demo's tools, and made ones up to n."""
    import quadrieve_demos

    path = Path(quadrieve_demos.__file__).parent / "texts" / "tools.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    by_id = {"type": "object", "properties": {"id": {"type": "string"}}}
    lines += [
        {"name": f"{verb}_{thing.replace(' ', '_')}", "description": does.format(thing), "parameters": by_id}
        for thing in THINGS
        for verb, does in ACTIONS
    ]
    return [
        StructuredTool(
            name=line["name"],
            description=line["description"],
            args_schema=line["parameters"],
            metadata={key: line[key] for key in ("usage", "requires") if line.get(key)},
            func=lambda **_: "done",
        )
        for line in lines[:n]
    ]


class ScriptedModel(BaseChatModel):
    """Calls the tool that the last turn needs, if it is offered, and then answers; keeps what it was offered."""

    needed: dict[str, str]
    offers: list[list[BaseTool]] = Field(default_factory=list)
    tools: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> ScriptedModel:
        """A copy that is offered these tools; all copies keep their offers in one list."""
        return self.model_copy(update={"tools": list(tools)})

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.offers.append(self.tools)
        turn = next(message.text for message in reversed(messages) if isinstance(message, HumanMessage))
        name = self.needed[turn]
        if isinstance(messages[-1], ToolMessage) or name not in [tool.name for tool in self.tools]:
            answer = AIMessage("Done.")
        else:
            answer = AIMessage("", tool_calls=[{"name": name, "args": {}, "id": "1"}])
        return ChatResult(generations=[ChatGeneration(message=answer)])


class Timed(ToolSelectionMiddleware):
    """Keeps how long it takes until the model is called: on the clock, and of the processor."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.times: list[tuple[float, float]] = []

    def wrap_model_call(self, request: Any, handler: Callable[[Any], Any]) -> Any:
        """As inherited, with the time taken."""
        wall, cpu = time.perf_counter(), time.process_time()

        def timed(narrowed: Any) -> Any:
            self.times.append((time.perf_counter() - wall, time.process_time() - cpu))
            return handler(narrowed)

        return super().wrap_model_call(request, timed)


@dataclass
class Turn:
    """What was offered in a user's turn, model call by model call."""

    needed: str
    offers: list[list[BaseTool]]

    @property
    def right(self) -> bool:
        """Whether the right tool was there when the model was first called."""
        return self.needed in names(self.offers[0])


def names(tools: Sequence[BaseTool]) -> list[str]:
    """Their names, in order."""
    return [tool.name for tool in tools]


def talk(middleware: AgentMiddleware[Any, Any, Any], tools: Sequence[BaseTool], conversations: Any) -> list[list[Turn]]:
    """Lead the conversations, each in a thread of its own."""
    model = ScriptedModel(needed={text: tool for conversation in conversations for text, tool in conversation})
    agent = create_agent(model, list(tools), middleware=[middleware], checkpointer=InMemorySaver())
    led: list[list[Turn]] = []
    for number, conversation in enumerate(conversations):
        led.append([])
        for text, tool in conversation:
            before = len(model.offers)
            agent.invoke({"messages": [("user", text)]}, {"configurable": {"thread_id": str(number)}})
            led[-1].append(Turn(tool, model.offers[before:]))
    return led


def prefix_changes(conversation: Sequence[Turn]) -> tuple[int, int]:
    """How often the offered tools changed from one model call to the next, and how often with no tool added."""
    calls = [names(offer) for turn in conversation for offer in turn.offers]
    changes = [(a, b) for a, b in pairwise(calls) if a != b]
    return len(changes), sum(not set(after) - set(before) for before, after in changes)


def choose_by_embedding(
    tools: Sequence[StructuredTool], embedder: Embedder, max_tools: int, *, usage: bool = True
) -> dict[str, Any]:
    """An agent with `ToolSelectionMiddleware`."""
    if not usage:
        tools = [tool.model_copy(update={"metadata": None}) for tool in tools]
    middleware = Timed(tools=tools, embedder=embedder, max_tools=max_tools)
    embedder.view("tool").embed_queries(["Load the weights."])
    led = talk(middleware, tools, CONVERSATIONS)
    turns = [turn for conversation in led for turn in conversation]
    first = np.cumsum([0, *(len(turn.offers) for turn in turns)])[:-1]
    wall, cpu = 1000 * np.array(middleware.times)[first].T
    later = 1000 * np.delete(np.array(middleware.times)[:, 0], first)
    changes, groundless = np.sum([prefix_changes(conversation) for conversation in led], axis=0)
    return {
        "right": float(np.mean([turn.right for turn in turns])),
        "missed": [turn.needed for turn in turns if not turn.right],
        "turns": len(turns),
        "offers": [offer for turn in turns for offer in turn.offers],
        "ms_p50": float(np.percentile(wall, 50)),
        "ms_p95": float(np.percentile(wall, 95)),
        "cpu_ms_p50": float(np.percentile(cpu, 50)),
        "ms_later_p95": float(np.percentile(later, 95)),
        "changes": int(changes),
        "changes_without_addition": int(groundless),
        "changes_within_turns": sum(prefix_changes([turn])[0] for turn in turns),
    }


def choose_by_words(tools: Sequence[StructuredTool], max_tools: int) -> dict[str, Any]:
    """BM25 over names, descriptions and example requests, asked with the user's turn."""
    import bm25s

    def words(texts: list[str]) -> Any:
        return bm25s.tokenize(texts, stopwords="en", show_progress=False)

    texts = [
        f"{tool.name.replace('_', ' ')} {tool.description} {' '.join((tool.metadata or {}).get('usage', ()))}"
        for tool in tools
    ]
    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    right, seconds, offers = [], [], []
    for text, tool in (turn for conversation in CONVERSATIONS for turn in conversation):
        start = time.perf_counter()
        found, scores = index.retrieve(words([text]), k=max_tools, show_progress=False)
        seconds.append(1000 * (time.perf_counter() - start))
        offers.append([tools[i] for i, score in zip(found[0], scores[0], strict=True) if score > 0])
        right.append(tool in names(offers[-1]))
    return {
        "right": float(np.mean(right)),
        "offers": offers,
        "ms_p50": np.percentile(seconds, 50),
        "ms_p95": np.percentile(seconds, 95),
    }


class ScriptedSelector(BaseChatModel):
    """Stands where LangChain's selector asks a model: keeps what it is sent, and chooses the first tools."""

    prompts: list[str] = Field(default_factory=list)
    schema_: Any = None

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, tools: Sequence[Any], **_: Any) -> ScriptedSelector:
        """A copy that must answer by that schema."""
        return self.model_copy(update={"schema_": convert_to_openai_tool(tools[0])["function"]})

    def _generate(self, messages: list[BaseMessage], *_: Any, **__: Any) -> ChatResult:
        self.prompts.append("\n".join([json.dumps(self.schema_), *(message.text for message in messages)]))
        chosen = self.schema_["parameters"]["properties"]["tools"]["items"]["anyOf"][:8]
        call = {"name": self.schema_["name"], "args": {"tools": [one["const"] for one in chosen]}, "id": "1"}
        return ChatResult(generations=[ChatGeneration(message=AIMessage("", tool_calls=[call]))])


def choose_by_model(tools: Sequence[StructuredTool], max_tools: int, conversations: Any) -> dict[str, Any]:
    """LangChain's own selector: what it sends to a model, and how often."""
    selector = ScriptedSelector()
    start = time.perf_counter()
    led = talk(LLMToolSelectorMiddleware(model=selector, max_tools=max_tools), tools, conversations)
    turns = sum(len(conversation) for conversation in led)
    return {
        "calls_per_turn": len(selector.prompts) / turns,
        "prompts": selector.prompts,
        "turns": turns,
        "offers": [offer for conversation in led for turn in conversation for offer in turn.offers],
        "ms_per_turn_without_the_model": 1000 * (time.perf_counter() - start) / turns,
    }


def token_counter() -> Callable[[str], int]:
    """Tokens as the packaged language model counts them."""
    from transformers import AutoTokenizer

    from quadrieve.packaged_lm import unpacked_lm

    tokenizer = AutoTokenizer.from_pretrained(unpacked_lm())
    return lambda text: len(tokenizer(text, verbose=False)["input_ids"])


def schemas(tools: Sequence[BaseTool]) -> str:
    """What a provider is sent of tools."""
    return json.dumps([convert_to_openai_tool(tool) for tool in tools])


def main() -> int:
    """Run all of it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tools", type=int, default=2000)
    parser.add_argument("--max-tools", type=int, default=8)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    args = parser.parse_args()
    tools, embedder, count = catalogue(args.tools), Embedder.load(), token_counter()
    ours = choose_by_embedding(tools, embedder, args.max_tools)
    bare = choose_by_embedding(tools, embedder, args.max_tools, usage=False)
    words = choose_by_words(tools, args.max_tools)
    model = choose_by_model(tools, args.max_tools, CONVERSATIONS[:2])

    def shown(offers: Sequence[Sequence[BaseTool]]) -> float:
        return float(np.mean([count(schemas(offer)) for offer in offers]))

    for result in (ours, bare, words, model):
        result["tool_tokens"] = shown(result.pop("offers"))
    sent = sum(map(count, model.pop("prompts"))) / model["turns"]
    everything = count(schemas(tools))
    print(f"{len(tools)} tools, {ours['turns']} turns, {args.max_tools} offered\n")
    print(
        "| | right tool offered | tool tokens a call | extra model calls a turn | extra tokens a turn | ms p50 / p95 |"
    )
    print("|---|---|---|---|---|---|")
    rows = (("by embedding", ours), ("by embedding, no example requests", bare), ("BM25", words))
    for label, result in rows:
        speed = f"{result['ms_p50']:.1f} / {result['ms_p95']:.1f}"
        print(f"| {label} | {result['right']:.0%} | {result['tool_tokens']:.0f} | 0 | 0 | {speed} |")
    own = f"{model['ms_per_turn_without_the_model']:.0f} a turn + the model"
    calls = f"{model['calls_per_turn']:.1f}"
    print(f"| LangChain's selector | not judged | {model['tool_tokens']:.0f} | {calls} | {sent:.0f} | {own} |")
    print(f"| all tools | 100% | {everything} | 0 | 0 | 0 |\n")
    print(f"missed: {', '.join(ours['missed']) or 'none'}; later calls of a turn p95 {ours['ms_later_p95']:.1f} ms")
    print(
        f"tools in the prompt changed {ours['changes']} times between model calls, {ours['changes_within_turns']} of "
        f"them within a turn, {ours['changes_without_addition']} without a tool being added"
    )
    bars = {
        f"right tool in at least {RIGHT:.0%} of the turns": ours["right"] >= RIGHT,
        f"selection p95 below {MILLISECONDS:.0f} ms": ours["ms_p95"] < MILLISECONDS,
        "prompt prefix changes only when a tool is added": ours["changes_without_addition"] == 0,
    }
    for bar, reached in bars.items():
        print(f"{'reached' if reached else 'MISSED '}  {bar}")
    if args.json:
        figures = {"embedding": ours, "embedding_without_usage": bare, "bm25": words, "llm_selector": model}
        figures |= {"tokens": {"selector_per_turn": sent, "all": everything}, "bars": bars}
        args.json.write_text(json.dumps(figures, indent=2, default=float) + "\n", encoding="utf-8")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
