"""Small real data and the packaged models, loaded once."""

import json

import pytest

from quadrieve_train import FrozenLM

ANIMALS = ["bee", "cow", "hen", "sheep", "goat", "spider", "silkworm", "oyster", "duck", "maple"]
GOODS = ["honey", "milk", "eggs", "wool", "cheese", "webs", "silk", "pearls", "feathers", "syrup"]


@pytest.fixture(scope="session")
def lm():
    """The packaged SmolLM2 in float32."""
    return FrozenLM.load(dtype="float32")


@pytest.fixture
def collection_folder(tmp_path):
    """Who makes what: a corpus of twenty passages, ten training and four dev queries."""
    folder = tmp_path / "farm"
    write_collection(folder)
    return folder


def write_collection(folder):
    """Write the corpus and queries of `collection_folder`."""
    folder.mkdir(parents=True)
    corpus = [
        {"id": f"m{i}", "text": f"The {animal} gives us {good}.", "title": f"give_{good}"}
        for i, (animal, good) in enumerate(zip(ANIMALS, GOODS, strict=True))
    ]
    corpus += [
        {"id": f"o{i}", "text": f"People buy {good} at the market on day {i}.", "title": f"buy_{good}"}
        for i, good in enumerate(GOODS)
    ]
    queries = [
        {
            "id": f"q{i}-{split}",
            "text": ask.format(good),
            "answers": [f"the {animal}"],
            "positives": [f"m{i}"],
            "split": split,
        }
        for split, ask, count in (("train", "Who makes {}?", 10), ("dev", "Where does {} come from?", 4))
        for i, (animal, good) in enumerate(list(zip(ANIMALS, GOODS, strict=True))[:count])
    ]
    for name, records in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
