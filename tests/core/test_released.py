"""What `Embedder.load()` opens is ours: small, with a prefix for each task, and better than its start."""

import json

import numpy as np
import pytest

from quadrieve import Embedder, checkpoint, tasks
from quadrieve.checkpoint import RELEASED_FOLDER

#: What a tool does, and a request that it serves, in other words; each has a sibling that is easily taken for it.
TOOLS = {
    "get_forecast: Predicts temperature, rain and wind for a place.": "Will I need an umbrella in Oslo?",
    "convert_currency: Exchanges money from one currency to another.": "How many euros do I get for 50 dollars?",
    "search_flights: Lists connections by air between two airports.": "I have to get from Lisbon to Rome on Friday.",
    "translate_text: Renders a passage in another language.": "How would a Frenchman say good luck?",
    "set_alarm: Rings at a given time.": "Wake me at six tomorrow.",
    "find_recipe: Proposes dishes for given ingredients.": "I only have eggs and spinach left.",
    "track_parcel: Tells where a shipment is on its way.": "Has my order left the warehouse yet?",
    "book_table: Reserves seats in a restaurant.": "Dinner for four at the new Thai place, please.",
    "get_past_weather: Reports measured temperatures of earlier days.": "How hot was it in Madrid last Tuesday?",
    "get_stock_price: Quotes the last trade of a share.": "What is Siemens worth at the moment?",
    "search_trains: Lists connections by rail between two stations.": "Can I still reach Hamburg by track tonight?",
    "define_word: Explains the meaning of a term.": "What on earth does 'defenestrate' mean?",
    "start_timer: Counts down a number of minutes.": "The pasta needs nine more minutes.",
    "log_meal: Records what was eaten and its calories.": "I just had a burger and fries.",
    "cancel_order: Withdraws a purchase before it is sent.": "I no longer want the shoes I bought this morning.",
    "order_delivery: Has dishes brought to an address.": "Bring us two pizzas, we are at home.",
}


@pytest.fixture(scope="module")
def released() -> Embedder:
    return Embedder.load()


def test_it_is_the_default_and_has_a_name(released: Embedder) -> None:
    assert released.name == "quadrieve"
    assert Embedder.load("quadrieve").view("qa").fingerprint == released.view("qa").fingerprint
    assert Embedder.load("minilm").view("qa").fingerprint != released.view("qa").fingerprint


def test_its_weights_are_those_that_were_released_and_small(released: Embedder) -> None:
    about = json.loads((RELEASED_FOLDER / "model.json").read_text())
    assert released.checkpoint.weights_hash() == about["weights"]
    assert sum(file.stat().st_size for file in RELEASED_FOLDER.iterdir()) < 30e6


def test_tasks_have_the_prefixes_that_they_were_trained_with_and_knowledge_none(released: Embedder) -> None:
    for task in tasks():
        if task.name in ("chat", "icl", "tool"):
            assert released.view(task.name).explain("x", "query") == task.query_prefix + "x"
            assert released.view(task.name).explain("x", "key") == task.key_prefix + "x"
    assert released.view("qa").explain("x") == "x"
    assert Embedder.load("minilm").view("tool").explain("x") == "x"


def test_it_tells_what_it_was_trained_on() -> None:
    card = (RELEASED_FOLDER / "README.md").read_text()
    sources = json.loads((checkpoint.find().folder / "training.json").read_text())["sources"]
    for source in ("medquad", "irc_disentangle", "icl_mix", "sealtools"):
        assert source in sources
        assert source in card
    for never in ("squad", "locomo", "natural_instructions"):
        assert never not in sources


@pytest.mark.models
def test_it_tells_tools_apart_better_than_its_start(released: Embedder) -> None:
    def margin(embedder: Embedder) -> float:
        """How far the right tool is above the best wrong one, in standard deviations of all cosines; the mean."""
        view = embedder.view("tool")
        cosines = view.embed_queries(list(TOOLS.values())) @ view.embed_keys(list(TOOLS)).T
        wrong = np.where(np.eye(len(TOOLS), dtype=bool), -1, cosines).max(axis=1)
        return float(((np.diag(cosines) - wrong) / cosines.std()).mean())

    assert margin(released) > margin(Embedder.load("minilm"))
    assert margin(released) > 0
