"""A trained model shrinks to a file that gives it back, wherever the packaged backbone is."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from quadrieve import Embedder, ModelError, checkpoint
from quadrieve.cache import CACHE_VARIABLE
from quadrieve.errors import InputError
from quadrieve_train import Recipe
from quadrieve_train.encoder import BiEncoder
from quadrieve_train.export import export, shrink
from quadrieve_train.losses import Temperature

TEXTS = ["Bees make honey.", "The ferry leaves at nine.", "Write to Ada that I am late."]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def trained(tmp_path):
    """A folder as training writes it: MiniLM with another first layer."""
    start = checkpoint.find("minilm")
    encoder = BiEncoder.load(start, Temperature(), train_embeddings=False)
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoder.backbone.encoder.layer[0].parameters():
            parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=0.02)
    recipe = Recipe.from_dict({"tasks": {"tool": {"sources": ["tools"], "labelled": 1}}})
    return export(encoder, AutoTokenizer.from_pretrained(start.folder), start, recipe, tmp_path / "trained")


def vectors(model):
    return Embedder.load(model, dtype="float32").view("tool").embed_queries(TEXTS)


@pytest.mark.models
def test_a_shrunk_model_gives_the_trained_ones_vectors_and_prefixes(trained, tmp_path):
    small = shrink([trained], tmp_path / "small", rank=384, word_rates={"tool": 0.004})
    found = Embedder.load(small, dtype="float32")
    assert found.name == "small"
    assert found.view("tool").explain("Hi") == Embedder.load(trained).view("tool").explain("Hi") != "Hi"
    assert (vectors(small) * vectors(trained)).sum(axis=1).min() > 0.9995
    assert (vectors("minilm") * vectors(trained)).sum(axis=1).min() < 0.99
    assert (small / "delta.safetensors").stat().st_size < 5e6
    assert (small / "README.md").read_text() == (trained / "README.md").read_text()
    found.save(tmp_path / "whole")
    for model in (small, tmp_path / "whole"):
        assert Embedder.load(model).view("tool").word_rate == 0.004
        assert Embedder.load(model).view("qa").word_rate is None
    for rates in ({"cooking": 0.1}, {"knowledge": 0.1}, {"tool": -1.0}, {"tool": float("nan")}):
        with pytest.raises(InputError, match=r"cooking|the name of a task"):
            shrink([trained], tmp_path / "small", rank=4, word_rates=rates)


@pytest.mark.models
def test_its_weights_are_the_same_to_the_bit_wherever_it_is_put_together(trained, tmp_path, monkeypatch):
    small = shrink([trained], tmp_path / "small", rank=16)
    first = Embedder.load(small).view("tool").fingerprint
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "elsewhere"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1 if threads > 1 else 2)
    try:
        assert Embedder.load(small).view("tool").fingerprint == first
    finally:
        torch.set_num_threads(threads)


@pytest.mark.models
def test_runs_are_averaged_and_a_share_of_their_change_is_kept(trained, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(trained, other)
    start = load_file(checkpoint.find("minilm").folder / "model.safetensors")
    (other / "model.safetensors").unlink()
    save_file(start, other / "model.safetensors", metadata={"format": "pt"})  # a run that changed nothing
    half = shrink([trained, other], tmp_path / "half", rank=384, share=0.5)
    weights = load_file(Embedder.load(half).checkpoint.folder / "model.safetensors")
    name = "encoder.layer.0.intermediate.dense.weight"
    change = load_file(trained / "model.safetensors")[name] - start[name]
    assert torch.linalg.norm(weights[name] - start[name] - change / 4) < 0.05 * torch.linalg.norm(change)
    between = shrink([trained], tmp_path / "between", rank=384, share=0.5, start=half)  # a half of what half left open
    about = json.loads((between / "model.json").read_text())
    assert (about["start"], about["share"], about["runs"]) == ("half", 0.5, 1)
    weights = load_file(Embedder.load(between).checkpoint.folder / "model.safetensors")
    assert torch.linalg.norm(weights[name] - start[name] - change * 5 / 8) < 0.05 * torch.linalg.norm(change)
    recipe = (other / "recipe.yaml").read_text()
    (other / "recipe.yaml").write_text(recipe.replace("seed: 13", "seed: 14"))
    shrink([trained, other], tmp_path / "seeds", rank=4)
    (other / "recipe.yaml").write_text(recipe.replace("model: minilm", "model: other"))
    with pytest.raises(InputError, match="began from minilm, other"):
        shrink([trained, other], tmp_path / "mixed", rank=4)
    for nothing in ({"models": []}, {"models": [trained], "share": 0.0}, {"models": [trained], "share": 1.5}):
        with pytest.raises(InputError, match="share above 0"):
            shrink(folder=tmp_path / "none", rank=4, **nothing)


@pytest.mark.models
def test_runs_of_two_recipes_are_averaged_with_the_prefixes_and_the_sources_of_both(trained, tmp_path):
    other, start = tmp_path / "other", checkpoint.find("minilm")
    encoder = BiEncoder.load(start, Temperature(), train_embeddings=False)
    recipe = Recipe.from_dict({"tasks": {"icl": {"sources": ["examples"], "labelled": 1}}})
    export(encoder, AutoTokenizer.from_pretrained(start.folder), start, recipe, other)
    both = shrink([trained, other], tmp_path / "both", rank=4)
    found = Embedder.load(both)
    for task, run in (("tool", trained), ("icl", other)):
        assert found.view(task).explain("Hi") == Embedder.load(run).view(task).explain("Hi")
    assert json.loads((both / "training.json").read_text())["sources"] == ["tools", "examples"]
    about = json.loads((other / "config_sentence_transformers.json").read_text())
    about["prompts"]["tool_query"] = "Another prefix: "
    (other / "config_sentence_transformers.json").write_text(json.dumps(about))
    with pytest.raises(InputError, match="same prefixes can be averaged: tool_query"):
        shrink([trained, other], tmp_path / "against", rank=4)


@pytest.mark.models
def test_a_damaged_delta_is_refused_and_nothing_of_it_is_kept(trained, tmp_path, cache):
    small = shrink([trained], tmp_path / "small", rank=4)
    file = small / "delta.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(ModelError, match="damaged or replaced"):
        Embedder.load(small)
    assert not [path for path in cache.iterdir() if path.is_dir()]
    file.write_bytes(whole)
    assert Embedder.load(small).dim == 384


@pytest.mark.models
def test_only_what_was_trained_from_the_packaged_backbone_shrinks(trained, tmp_path):
    told = json.loads((trained / "training.json").read_text())
    (trained / "training.json").write_text(json.dumps({**told, "start": "first", "backbone": "minilm"}))
    shrink([trained], tmp_path / "twice", rank=4)  # trained again from what was trained from it
    (trained / "training.json").write_text(json.dumps({**told, "start": "first", "backbone": "other/model"}))
    with pytest.raises(InputError, match="was not trained from 'minilm'"):
        shrink([trained], tmp_path / "small", rank=4)
    with pytest.raises(InputError, match="was not trained from 'minilm'"):
        shrink(["minilm"], tmp_path / "small", rank=4)


def test_embeddings_that_are_not_trained_get_no_gradient():
    frozen = BiEncoder.load(checkpoint.find("minilm"), Temperature(), train_embeddings=False)
    assert not frozen.backbone.get_input_embeddings().weight.requires_grad
    assert frozen.backbone.encoder.layer[0].attention.self.query.weight.requires_grad
