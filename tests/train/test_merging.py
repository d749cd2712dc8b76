"""Models that each know a task best become one that follows each of them on its own texts."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from quadrieve import Embedder, checkpoint
from quadrieve.errors import InputError
from quadrieve_train import Recipe
from quadrieve_train.encoder import BiEncoder
from quadrieve_train.export import export, shrink
from quadrieve_train.losses import Temperature
from quadrieve_train.merging import input_grams, merge, merge_linear

from .conftest import write_collection


def layer(draw, *, size_in=4, size_out=3):
    return {"l.weight": torch.randn(size_out, size_in, generator=draw), "l.bias": torch.randn(size_out, generator=draw)}


def seen(draw, *, rows=30, size_in=4):
    """Inputs `[rows, size_in + 1]`, the constant last."""
    return torch.cat([torch.randn(rows, size_in, generator=draw), torch.ones(rows, 1)], dim=1)


def outputs(weights, inputs):
    return inputs @ torch.cat([weights["l.weight"], weights["l.bias"].unsqueeze(1)], dim=1).T


def gram(inputs):
    return {"l": inputs.T @ inputs / len(inputs)}


@given(seed=st.integers(0, 10_000), matters=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_experts_that_agree_are_left_as_they_are(seed, matters):
    draw = torch.Generator().manual_seed(seed)
    weights = layer(draw)
    merged = merge_linear([(weights, gram(seen(draw)), 1.0), (weights, gram(seen(draw)), matters)])
    for name, values in weights.items():
        torch.testing.assert_close(merged[name], values, atol=1e-4, rtol=1e-4)


@given(seed=st.integers(0, 10_000), matters=st.floats(0.1, 10))
@settings(max_examples=30, deadline=None)
def test_nothing_near_by_follows_the_experts_better(seed, matters):
    draw = torch.Generator().manual_seed(seed)
    experts, inputs = [layer(draw), layer(draw)], [seen(draw), seen(draw)]
    merged = merge_linear([(experts[0], gram(inputs[0]), 1.0), (experts[1], gram(inputs[1]), matters)])

    def error(weights):
        first, second = (
            (outputs(weights, rows) - outputs(expert, rows)).square().sum(dim=1).mean()
            for expert, rows in zip(experts, inputs, strict=True)
        )
        return float(first + matters * second)

    least = error(merged)
    for _ in range(10):
        other = {name: values + 0.1 * torch.randn(values.shape, generator=draw) for name, values in merged.items()}
        assert least < error(other)
    assert least <= error({name: (experts[0][name] + experts[1][name]) / 2 for name in merged}) + 1e-3


def test_each_expert_is_followed_where_only_its_texts_go():
    draw = torch.Generator().manual_seed(0)
    experts = [layer(draw), layer(draw)]
    for expert in experts:
        expert["l.bias"] = torch.zeros(3)
    first, second = seen(draw), seen(draw)
    first[:, 2:4], second[:, :2] = 0, 0  # no direction in common but the constant
    merged = merge_linear([(experts[0], gram(first), 1.0), (experts[1], gram(second), 1.0)])
    for expert, rows in zip(experts, (first, second), strict=True):
        error, size = (
            (outputs(merged, rows) - outputs(expert, rows)).square().mean(),
            outputs(expert, rows).square().mean(),
        )
        assert error < 0.001 * size


def test_grams_count_every_text_the_same_and_no_padding():
    model = torch.nn.ModuleDict({"l": torch.nn.Linear(2, 2)})
    rows = torch.tensor([[[1.0, 2.0], [3.0, 4.0]], [[5.0, 6.0], [99.0, 99.0]]])
    model.forward = lambda input_ids, attention_mask: model["l"](rows)
    batch = {"input_ids": torch.zeros(2, 2, dtype=torch.long), "attention_mask": torch.tensor([[1, 1], [1, 0]])}
    found = input_grams(model, iter([batch]))["l"]
    one, two, three = (torch.tensor([*row, 1.0], dtype=torch.float64) for row in ((1, 2), (3, 4), (5, 6)))
    torch.testing.assert_close(found, (one.outer(one) / 2 + two.outer(two) / 2 + three.outer(three)) / 2)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A collection of knowledge and one of tools."""
    folder = tmp_path_factory.mktemp("data")
    write_collection(folder / "farm")
    (folder / "tools").mkdir()
    kinds = [f"{verb} a {thing}" for verb in ("convert", "delete", "send", "open") for thing in ("file", "bill", "map")]
    tools = [{"id": f"t{i}", "text": f"This function can {kind}; it returns a code."} for i, kind in enumerate(kinds)]
    asked = [
        {"id": f"q{i}", "text": f"Could you {kind} for me?", "positives": [f"t{i}"], "split": "train"}
        for i, kind in enumerate(kinds)
    ]
    for name, records in (("corpus", tools), ("queries", asked)):
        (folder / "tools" / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """As training leaves them: MiniLM for knowledge and tools, and one with other weights, for tools alone."""
    folder, start = tmp_path_factory.mktemp("models"), checkpoint.find("minilm")
    tokenizer = AutoTokenizer.from_pretrained(start.folder)
    for name, tasks, change in (("both", {"qa": "farm", "tool": "tools"}, 0.0), ("tools", {"tool": "tools"}, 0.01)):
        encoder, draw = BiEncoder.load(start, Temperature(), train_embeddings=False), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in encoder.backbone.encoder.parameters():
                if parameter.ndim == 2:
                    parameter.add_(torch.randn(parameter.shape, generator=draw), alpha=change)
        recipe = {"tasks": {task: {"sources": [source], "labelled": 1} for task, source in tasks.items()}}
        export(encoder, tokenizer, start, Recipe.from_dict(recipe), folder / name)
    return folder


@pytest.mark.models
def test_each_task_keeps_more_of_its_expert_than_in_the_mean_of_weights(models, data, tmp_path):
    merged = merge(models / "both", {"tool": [models / "tools"]}, data, tmp_path / "merged")
    mean = shrink([models / "both", models / "tools"], tmp_path / "mean", rank=384)

    asked = {
        "qa": ["Who makes honey?", "Who makes wool?", "Who makes cheese?"],
        "tool": ["Could you delete a bill for me?", "Could you send a map for me?", "Could you open a file for me?"],
    }

    def nearness(model, to, task):
        """Mean cosine of what two models make of texts that grams are of."""
        texts = asked[task]
        own, other = (Embedder.load(one, dtype="float32").view(task).embed_queries(texts) for one in (model, to))
        return float(np.sum(own * other, axis=1).mean())

    def kept(model):
        """By how much each task's expert is followed."""
        return {"tool": nearness(model, models / "tools", "tool"), "qa": nearness(model, models / "both", "qa")}

    follows, between = kept(merged), kept(mean)
    assert sum(follows.values()) > sum(between.values()) + 0.005
    assert follows["qa"] > between["qa"] + 0.005
    told = json.loads((merged / "training.json").read_text())
    assert told["experts"] == {"tool": ["tools"]}
    assert told["weights"] == {"qa": 1.0, "tool": 1.0}
    assert told["sources"] == ["farm", "tools"]
    small = shrink([merged], tmp_path / "small", rank=64)
    assert Embedder.load(small).view("tool").explain("Hi") == Embedder.load(models / "both").view("tool").explain("Hi")


@pytest.mark.models
def test_a_task_takes_its_experts_prefixes_and_the_others_keep_theirs(models, data, tmp_path):
    merged = Embedder.load(merge(models / "both", {"qa": ["minilm"]}, data, tmp_path / "merged"))
    assert merged.view("qa").explain("Hi") == Embedder.load("minilm").view("qa").explain("Hi")
    assert merged.view("tool").explain("Hi") == Embedder.load(models / "both").view("tool").explain("Hi")


@pytest.mark.models
def test_the_same_texts_give_the_same_model(models, data, tmp_path):
    first, second = (merge(models / "both", {"tool": [models / "tools"]}, data, tmp_path / name) for name in "ab")
    assert Embedder.load(first).checkpoint.weights_hash() == Embedder.load(second).checkpoint.weights_hash()


@pytest.mark.models
def test_what_cannot_be_merged_is_refused_by_name(models, data, tmp_path):
    def refused(message, experts, **options):
        with pytest.raises(InputError, match=message):
            merge(options.pop("model", models / "both"), experts, data, tmp_path / "out", **options)
        assert not (tmp_path / "out").exists()

    refused("not trained for 'icl'; its tasks are qa, tool", {"icl": [models / "tools"]})
    refused("weight of qa must be above 0", {"tool": [models / "tools"]}, weights={"qa": 0.0})
    refused("minilm has no recipe.yaml", {"tool": [models / "tools"]}, model="minilm")
    refused("same prefixes can be averaged: qa_query", {"qa": [models / "both", "minilm"]})


@pytest.mark.models
def test_the_command_says_where_the_model_is(models, data, tmp_path, run_command):
    out = tmp_path / "merged"
    status, said, _ = run_command(
        "merge", models / "both", "--expert", f"tool={models / 'tools'}", "--data", data, "--out", out
    )
    assert (status, said) == (0, f"The model is in {out}\n")
    status, _, error = run_command("merge", models / "both", "--expert", "tool", "--data", data, "--out", out)
    assert (status, "such as tool=runs/tools" in error) == (2, True)
