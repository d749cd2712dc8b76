"""The packaged language model is unpacked once, exactly, and by whoever comes first."""

from pathlib import Path

import pytest

from quadrieve import ModelError
from quadrieve.cache import CACHE_VARIABLE
from quadrieve.packaged_lm import packaged_lm, unpacked_lm

TEXTS = ["Bees make honey.", "def f(x):\n    return x", "naïve 😀 שלום", "<|im_start|>user\nHi<|im_end|>\n"]


@pytest.mark.models
def test_the_unpacked_weights_and_tokens_are_those_of_the_package() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    file = packaged_lm()
    given = {"gguf_file": file.name}
    folder = unpacked_lm()
    packed, unpacked = AutoTokenizer.from_pretrained(file.parent, **given), AutoTokenizer.from_pretrained(folder)
    assert [packed(text)["input_ids"] for text in TEXTS] == [unpacked(text)["input_ids"] for text in TEXTS]
    assert packed.chat_template == unpacked.chat_template
    weights = AutoModelForCausalLM.from_pretrained(
        file.parent, **given, dtype="float32", quantization_config=GgufConfig(dequantize=True)
    ).state_dict()
    kept = AutoModelForCausalLM.from_pretrained(folder, dtype="float32", use_safetensors=True).state_dict()
    assert weights.keys() == kept.keys()
    assert all(torch.equal(tensor, kept[name]) for name, tensor in weights.items())


def test_a_cache_that_cannot_be_written_is_named_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "file"))
    with pytest.raises(ModelError, match=f"cannot be unpacked into .*{CACHE_VARIABLE}"):
        unpacked_lm()
