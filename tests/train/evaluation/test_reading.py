"""What the language model is asked equals what it would be asked by hand."""

import math
from dataclasses import replace

import pytest
import torch

from quadrieve_train.evaluation.reading import Reader, prompt_for
from quadrieve_train.evaluation.sets import EvalSet
from quadrieve_train.rewards import RewardStore
from quadrieve_train.rows import Collection, Query


def test_perplexity_is_the_models_own_loss(lm, tmp_path, monkeypatch):
    query = Query("q", "Do you like tea?", ("I like tea with milk.",), (), "test", (), "c", 2)
    conversation = Collection("talk", ("a",), ("We talked of drinks.",), ("",), (("c", 0),), (query,))
    evaluated = EvalSet("talk", "chat", conversation, (query,))
    with RewardStore(tmp_path) as store:
        reader = Reader(lm, store)
        (nll,) = reader.read(evaluated, [["a"]], 1)["nll"]
        monkeypatch.setattr(lm, "score_many", None)  # what was scored once is not scored again
        assert reader.read(evaluated, [["a"]], 1)["nll"] == [nll]
    prompt = lm.chat(prompt_for(evaluated.role, query, ["We talked of drinks."]))
    head = lm.tokenizer(prompt.text, add_special_tokens=False)["input_ids"]
    tail = lm.tokenizer(prompt.text + query.answers[0], add_special_tokens=False)["input_ids"][len(head) :]
    labels = torch.tensor([[-100] * len(head) + tail])
    with torch.inference_mode():
        loss = lm.model(input_ids=torch.tensor([head + tail]), labels=labels).loss.item()
    assert math.exp(nll) == pytest.approx(math.exp(loss), rel=1e-3)


def test_answers_do_not_depend_on_whether_the_likelihood_of_the_written_is_asked_for(lm, tmp_path):
    written = Query("w", "Q: 2 + 2 A:", ("4",), (), "test", (), None, None)
    chosen = replace(written, id="c", text="The soup was cold. It was", answers=("bad",), choices=("good", "bad"))
    solved = Collection("solved", ("a",), ("Q: 1 + 1 A: 2",), ("",), None, (written, chosen))
    evaluated = EvalSet("solved", "icl", solved, solved.queries)
    with RewardStore(tmp_path) as store:
        whole = Reader(lm, store).read(evaluated, [["a"], ["a"]], 1)
        short = Reader(lm, store, nll_of_written=False).read(evaluated, [["a"], ["a"]], 1)
    assert short == {**whole, "nll": whole["nll"][1:]}
