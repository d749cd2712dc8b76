"""The frozen language model: packed scoring against one forward an output, sampling, and what it refuses."""

import pytest
import torch

from quadrieve.errors import InputError, ModelError
from quadrieve_train import FrozenLM, LanguageModel, Prompt

PROMPT = Prompt("Knowledge:\n", "Bees make honey from nectar. " * 4, "\n\nQ: Who makes honey? A:")
OUTPUTS = [" Bees", " The bees make it from nectar", " cows and goats do", " I am not sure", "<|im_end|>"]


def one_forward_each(lm, prompt, outputs):
    """Mean log-likelihood of each output from a plain forward of prompt and output."""
    means = []
    for output in outputs:
        before, after = lm._tokenize(prompt), lm._tokenize(output)
        with torch.no_grad():
            logits = lm.model(torch.tensor([before + after])).logits[0].log_softmax(dim=-1)
        means.append(sum(logits[len(before) - 1 + i, token].item() for i, token in enumerate(after)) / len(after))
    return means


@pytest.mark.models
def test_packed_scores_equal_one_forward_per_output(lm):
    requests = [(PROMPT, OUTPUTS), ("The sky is", [" blue", " made of stone"]), ("1 + 1 =", [" 2"])]
    expected = [one_forward_each(lm, getattr(p, "text", p), outputs) for p, outputs in requests]
    packed = lm.score_many(requests)
    assert lm._packed
    for found, wanted in zip(packed, expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)
    padded = FrozenLM(lm.model, lm.tokenizer, name="padded", revision="padded", packed=False)
    for found, wanted in zip(padded.score_many(requests), expected, strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.models
def test_a_small_token_budget_changes_no_score(lm):
    requests = [(f"{i} + 1 =", [f" {i + 1}", " many"]) for i in range(5)]
    narrow = FrozenLM(lm.model, lm.tokenizer, name="narrow", revision="narrow", batch_tokens=1)
    for found, wanted in zip(narrow.score_many(requests), lm.score_many(requests), strict=True):
        assert found == pytest.approx(wanted, abs=1e-4)


def test_a_prompts_trailing_space_belongs_to_the_output(lm):
    assert lm.score("The sky is ", ["blue"]) == pytest.approx(lm.score("The sky is", [" blue"]), abs=1e-5)


def test_a_long_candidate_is_cut_from_its_left_and_question_and_output_never(lm):
    short = FrozenLM(lm.model, lm.tokenizer, name="short", revision="short", max_length=48)
    words = " ".join(f"fact{i}" for i in range(200))
    prompt = Prompt("Knowledge:\n", words, "\n\nQ: Who makes honey? A:")
    ids = short._fit(prompt, room=5)
    text = short.tokenizer.decode(ids)
    assert len(ids) + 5 <= 48
    assert text.startswith("Knowledge:\n")
    assert text.endswith("fact199\n\nQ: Who makes honey? A:")
    assert len(ids) + 5 >= 48 - 8
    with pytest.raises(InputError, match=r"question', has \d+ tokens.*do not fit into the 48 tokens"):
        short.score(Prompt("", "candidate", "question " * 100), [" yes"])


def test_what_cannot_be_scored_is_refused(lm):
    for outputs in ([], " Bees"):
        with pytest.raises(InputError, match="list of at least one output"):
            lm.score("Q", outputs)
    for output in ("", "<|endoftext|>"):  # no tokens, and the tokenizer's unknown token
        with pytest.raises(InputError, match="its vocabulary has no tokens for it"):
            lm.score("Q", [output])


@pytest.mark.models
def test_samples_are_the_same_for_a_seed_and_stop_where_told(lm):
    prompt = "Q: Name an animal that lives on a farm.\nA:"
    first = lm.sample(prompt, 4, seed=1, max_new_tokens=8)
    assert first == lm.sample(prompt, 4, seed=1, max_new_tokens=8)
    assert first != lm.sample(prompt, 4, seed=2, max_new_tokens=8)
    assert len(set(first)) > 1
    assert not any("\n" in text for text in first)
    greedy = lm.sample(prompt, 2, seed=1, temperature=0, max_new_tokens=8)
    ids = lm.tokenizer(prompt, return_tensors="pt")
    generated = lm.model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
    assert greedy[0] == greedy[1] == lm.tokenizer.decode(generated).strip().split("\n")[0]
    with pytest.raises(InputError, match="sample needs"):
        lm.sample(prompt, 0, seed=1)


def test_a_continuation_ends_at_any_special_token_so_that_it_can_be_scored(lm):
    special = lm.tokenizer.convert_tokens_to_ids("<|endoftext|>")
    assert special != lm.tokenizer.eos_token_id

    def likeliest(module, args, kwargs, output):
        output.logits[..., special] = 1e4
        return output

    hook = lm.model.register_forward_hook(likeliest, with_kwargs=True)
    try:
        assert lm.sample("An animal:", 2, seed=1, max_new_tokens=4) == ["", ""]
    finally:
        hook.remove()


def test_a_chat_template_goes_around_the_prompt_once(lm):
    wrapped = lm.chat(Prompt("Knowledge:\n", "fact", "\n\nQ?"))
    expected = lm.tokenizer.apply_chat_template(
        [{"role": "user", "content": "Knowledge:\nfact\n\nQ?"}], tokenize=False, add_generation_prompt=True
    )
    assert wrapped.text == expected
    assert wrapped.candidate == "fact"
    assert lm.chat(wrapped) == wrapped


def test_a_model_that_cannot_be_packed_is_scored_as_a_padded_batch(lm, monkeypatch):
    other = FrozenLM(lm.model, lm.tokenizer, name="other", revision="other")
    monkeypatch.setattr(other, "_score_packed", lambda encoded: [[0.0] * len(e.outputs) for e in encoded])
    assert other.score("The sky is", [" blue", " grey"]) == pytest.approx(
        lm.score("The sky is", [" blue", " grey"]), abs=1e-4
    )
    assert other._packed is False


def test_a_saved_model_is_loaded_from_its_folder_and_named_by_its_weights(lm, tiny_lm):
    tiny = FrozenLM.load(tiny_lm, dtype="float32")
    assert isinstance(tiny, LanguageModel)
    assert tiny.revision == FrozenLM.load(tiny_lm, dtype="float32").revision
    assert tiny.revision != lm.revision
    assert tiny.score("The sky", [" is", " blue sky"]) == pytest.approx(
        one_forward_each(tiny, "The sky", [" is", " blue sky"]), abs=1e-4
    )


@pytest.mark.parametrize(
    ("model", "options", "error", "message"),
    [
        ("./nowhere", {}, ModelError, "No language model at"),
        ("no.gguf", {}, ModelError, "No language model at"),
        (None, {"dtype": "int3"}, InputError, "Unknown dtype"),
        (None, {"dtype": "float16", "device": "cpu"}, InputError, "hundred times slower"),
    ],
)
def test_models_and_options_that_do_not_exist_are_refused(model, options, error, message):
    with pytest.raises(error, match=message):
        FrozenLM.load(model, **options)


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match="no safetensors weights"):
        FrozenLM.load(tmp_path)
