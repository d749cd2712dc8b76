"""Small real data and the packaged models, loaded once."""

import json
import sys

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, BertConfig, BertModel, LlamaConfig

from quadrieve import checkpoint
from quadrieve_train import FrozenLM, cli

ANIMALS = ["bee", "cow", "hen", "sheep", "goat", "spider", "silkworm", "oyster", "duck", "maple"]
GOODS = ["honey", "milk", "eggs", "wool", "cheese", "webs", "silk", "pearls", "feathers", "syrup"]


@pytest.fixture(scope="session")
def lm():
    """The packaged SmolLM2 in float32."""
    return FrozenLM.load(dtype="float32")


@pytest.fixture(scope="session")
def tiny_lm(lm, tmp_path_factory):
    """A folder with a causal language model that knows nothing: for what does not depend on what a model knows."""
    folder = tmp_path_factory.mktemp("models") / "tiny-lm"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(LlamaConfig(vocab_size=lm.model.config.vocab_size, **shape)).save_pretrained(
        folder
    )
    lm.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory):
    """A folder with a text encoder that knows nothing and trains in milliseconds, with MiniLM's tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "tiny-encoder"
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    torch.manual_seed(0)
    BertModel(BertConfig(max_position_embeddings=128, **shape)).save_pretrained(folder)
    AutoTokenizer.from_pretrained(checkpoint.find("minilm").folder).save_pretrained(folder)
    return folder


@pytest.fixture
def run_command(monkeypatch, capsys):
    """Runs `python -m quadrieve_train …` in this process, where torch is imported already: status, stdout, stderr."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["quadrieve", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capsys.readouterr()

    return run


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
