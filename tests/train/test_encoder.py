"""The encoder under training: its vectors, cached gradients, and what a batch is made of."""

import contextlib

import pytest
import torch
from transformers import AutoTokenizer

from quadrieve import Embedder, checkpoint
from quadrieve.errors import InputError
from quadrieve_train.batching import Draw
from quadrieve_train.collating import Collator, Prefixes
from quadrieve_train.encoder import BiEncoder, cached_backward
from quadrieve_train.losses import Temperature, contrastive_loss
from quadrieve_train.rows import Row
from quadrieve_train.trainer import _negatives

TEXTS = ["Who makes honey?", "Bees make honey from the nectar of flowers.", "The bus leaves at nine.", "Cows eat grass"]


@pytest.fixture(scope="module")
def start():
    return checkpoint.find("minilm")


@pytest.fixture(scope="module")
def tokenizer(start):
    return AutoTokenizer.from_pretrained(start.folder)


def groups_of(tokenizer, texts, group_tokens):
    collator = Collator(tokenizer, {"qa": Prefixes()}, group_tokens=group_tokens)
    return collator.group(texts, 0)


def test_vectors_are_those_that_the_embedder_gives(start, tokenizer):
    encoder = BiEncoder.load(start, Temperature()).eval()
    groups, order = groups_of(tokenizer, TEXTS, 20)
    assert len(groups) > 1
    with torch.no_grad():
        vectors = encoder(groups)[0][order]
    expected = Embedder.load("minilm", dtype="float32").view("qa").embed_keys(TEXTS)
    assert torch.allclose(vectors, torch.from_numpy(expected), atol=1e-5)


def test_cached_gradients_equal_those_of_the_plain_batch(start, tokenizer):
    groups, order = groups_of(tokenizer, TEXTS, 20)
    own, positives = torch.tensor([[0, 1]]), torch.tensor([[True, False]])

    def loss(vectors, tau):
        vectors = vectors[order]
        everyone = torch.ones(1, 3, dtype=torch.bool)
        return contrastive_loss(vectors[:1] @ vectors[1:].T, positives, own, everyone, tau)

    encoder = BiEncoder.load(start, Temperature(0.05, learned=True), dropout=0.0).train()
    plain = loss(*encoder(groups))
    plain.backward()
    expected = {
        name: parameter.grad.clone() for name, parameter in encoder.named_parameters() if parameter.requires_grad
    }
    encoder.zero_grad()
    cached = cached_backward(encoder, groups, loss, lambda value: value.backward(), contextlib.nullcontext)
    assert cached.item() == pytest.approx(plain.item(), abs=1e-6)
    assert expected["temperature.log_tau"] != 0
    for name, parameter in encoder.named_parameters():
        if parameter.requires_grad:
            assert torch.allclose(parameter.grad, expected[name], atol=1e-6, rtol=1e-4), name


def test_cached_gradients_meet_the_same_dropout_both_times(start, tokenizer):
    groups, _ = groups_of(tokenizer, TEXTS, 20)
    encoder = BiEncoder.load(start, Temperature(), dropout=0.3).train()
    seen = []

    def encode(groups):
        vectors, tau = encoder(groups)
        seen.append(vectors.detach().clone())
        return vectors, tau

    torch.manual_seed(1)
    cached_backward(encode, groups, lambda v, t: v.sum(), lambda value: value.backward(), contextlib.nullcontext)
    first, second = seen[: len(groups)], seen[len(groups) :]
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert not torch.equal(torch.rand(3), torch.manual_seed(1) and torch.rand(3))
    with pytest.raises(InputError, match="at least one group"):
        cached_backward(encode, [], None, None, contextlib.nullcontext)


def test_lora_trains_few_weights_and_merges_into_the_vectors_it_learned(start, tokenizer):
    encoder = BiEncoder.load(start, Temperature(), lora=4)
    trained = [name for name, parameter in encoder.named_parameters() if parameter.requires_grad]
    assert trained
    assert all("lora" in name for name in trained)
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    groups, _ = groups_of(tokenizer, TEXTS, 200)
    merged = BiEncoder(encoder.merged(), encoder.pooling, encoder.temperature).eval()
    with torch.no_grad():
        assert torch.allclose(merged(groups)[0], encoder.eval()(groups)[0], atol=1e-5)


def test_a_batch_encodes_equal_texts_once_and_knows_whose_candidate_is_whose(tokenizer):
    rows = [
        Row("qa", "q1", ("shared",), ("n1",), rewards=(1.0, 0.5), query_id="first"),
        Row("qa", "q2", ("p2",), ("shared", "n1", "n2")),
    ]
    collator = Collator(tokenizer, {"qa": Prefixes("Q: ", "K: ")}, candidates=4)
    batch = collator([(Draw("qa", i, 0), row) for i, row in enumerate(rows)])
    texts = [tokenizer.decode(ids, skip_special_tokens=True) for group in batch["groups"] for ids in group["input_ids"]]
    texts = [texts[i] for i in batch["order"]]
    assert texts == ["q : q1", "q : q2", "k : shared", "k : n1", "k : p2", "k : n2"]
    assert batch["own"].tolist() == [[0, 1, -1, -1], [2, 0, 1, 3]]
    assert batch["positives"].tolist() == [[True, False, False, False], [True, False, False, False]]
    assert batch["rewards"][0, :2].tolist() == [1.0, 0.5]
    assert batch["rewards"][1].isnan().all()
    assert batch["names"] == ["qa:first", "qa:1"]


def test_no_candidate_is_a_negative_of_a_query_that_knows_it_or_counts_twice():
    hashes = torch.tensor([11, 22, 33, 22, 44])
    own = torch.tensor([[0, -1], [1, 2]])
    known = torch.tensor([[44], [0]])
    assert _negatives(hashes, own, known).tolist() == [
        [False, True, True, False, False],  # not its own 11, not the known 44, 22 once
        [True, False, False, False, True],
    ]
