"""A recipe: everything that decides what a training run does, read from YAML."""

from __future__ import annotations

import difflib
import os
import types
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from quadrieve import find_task
from quadrieve.errors import InputError

from ..batching import Batching
from ..rewards.templates import Template

#: The folder of the recipes that come with the package.
FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class MiningRecipe:
    """How hard negatives are found; see `mine`."""

    method: Literal["bm25", "dense", "both"] = "both"
    among: Literal["corpus", "positives"] = "corpus"
    depth: int = 200
    keep: int = 100
    margin: float = 0.95
    drop_answers: bool = True


@dataclass(frozen=True)
class TaskRecipe:
    """What one task learns from.

    Attributes:
        sources: Collections (folders) or files of rows (`.jsonl`), below the data folder.
        queries: Training queries taken from each collection, at random; None for all.
        labelled: How many rows of each source the language model labels, or by source, of others none; None for all, 0
            for none.
        losses: Weight by name of loss: `graded` and `kl` need rewards, `contrastive` needs labels.
        weight: Share of the training steps; None for the number of rows.
        shares: Share of the task's steps by source, in batches of one source; None for the square root of its rows.
        batch_size: Queries in a micro-batch; None for the recipe's.
        candidates: Candidates a query; None for the recipe's. More serve tasks that share no negatives in a batch.
        mining: How its hard negatives are found; None for the recipe's way.
        template: How candidates are shown to the language model; None for the task's own.
        relabel: Label the rows of files anew even where they come with rewards.
        dev: A collection to be measured on, below the data folder; None for the first of `sources`.
        dev_queries: Dev queries taken; None for all.
        dev_keys: Dev candidates taken, positives among them; None for all.
        dev_labelled: Dev rows that the language model labels, to follow reward and answer quality.
        prefixes: Whether its texts get the task's prefixes; one task of several may go without.
        anchor: Weight of `anchor_loss`, which keeps the vectors of its texts near those of the recipe's `anchor_model`,
            so that training does not undo what that knew; 0 for none.
    """

    sources: tuple[str, ...]
    queries: int | None = None
    labelled: int | Mapping[str, int] | None = 0
    losses: Mapping[str, float] = field(default_factory=lambda: {"graded": 1.0})
    weight: float | None = None
    shares: Mapping[str, float] | None = None
    batch_size: int | None = None
    candidates: int | None = None
    mining: MiningRecipe | None = None
    template: Template | None = None
    relabel: bool = False
    dev: str | None = None
    dev_queries: int | None = None
    dev_keys: int | None = None
    dev_labelled: int = 0
    prefixes: bool = True
    anchor: float = 0.0

    def labelled_of(self, source: str) -> int | None:
        """How many rows of a source the language model labels; None for all."""
        return self.labelled.get(source, 0) if isinstance(self.labelled, Mapping) else self.labelled


@dataclass(frozen=True)
class RewardRecipe:
    """How the language model rewards candidates; see `LabelOptions`."""

    kind: Literal["rank", "likelihood"] = "rank"
    outputs: int = 10
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 32
    max_length: int | None = None
    chat: bool = True


@dataclass(frozen=True)
class PaceRecipe:
    """Self-pacing; see `SelfPacedSchedule`. `by` says what the factor multiplies."""

    by: Literal["lr", "loss"] = "lr"
    interval: int = 1000
    alpha: float = 1.0
    direction: Literal["as_text", "as_printed"] = "as_text"
    low: float = 0.5
    high: float = 2.0
    smoothing: float = 0.9


@dataclass(frozen=True)
class Recipe:
    """A training run.

    Attributes:
        tasks: What each task learns from.
        model: The weights to start from, as `Embedder.load` takes them.
        revision: Of a hub id.
        anchor_model: What tasks with an `anchor` are kept near, as `Embedder.load` takes it; None for `model`.
        anchor_revision: Of a hub id.
        lm: The frozen language model: a hub id, a folder, a `.gguf` file, `smollm2`, or the URL of a server.
        prefixes: `task` for each task's own, `none` for none (the ablation).
        mining: How hard negatives are found.
        rewards: How the language model rewards candidates.
        candidates: Candidates a query in training, and those that are labelled.
        query_tokens: Longest query, its prefix included.
        key_tokens: Longest candidate.
        steps: Optimizer steps.
        batch_size: Queries in a micro-batch of one process.
        accumulation: Micro-batches in a step.
        batching: `homogeneous`, `source`, `heterogeneous` or `mixed`; see `TaskBlockSampler`.
        grad_cache: Encode in groups of `group_tokens` with cached gradients, so that memory does not bound the batch.
        group_tokens: Padded tokens in one forward pass; None for what suits the device.
        learning_rate: Highest learning rate.
        warmup: Share of the steps in which it rises.
        schedule: How it falls then, a name of transformers' schedulers.
        weight_decay: Of AdamW.
        max_grad_norm: Gradients are clipped to it; 0 leaves them.
        tau: Temperature of the cosines.
        learn_tau: Learn it.
        tau_reward: Temperature of the rewards in the graded loss.
        tau_teacher: Temperature of the rewards in the KL loss.
        positives_first: Let labelled positives rank first whatever their reward.
        pace: Self-pacing; None for none.
        matryoshka: Lengths that vectors may be cut to.
        lora: Rank of LoRA adapters; None trains all weights.
        dropout: Of the encoder; None for its own.
        train_embeddings: Train the embeddings of tokens too. Without them a step is quicker, words that no row has stay
            as they are to those that rows have, and what training changes can be kept as a small file (`shrink`).
        precision: `auto` computes in bfloat16 where the device has it.
        eval_steps: Steps between evaluations; 0 for the start and the end only.
        save_steps: Steps between checkpoints; 0 for the end only.
        keep_checkpoints: Older ones are deleted.
        log_steps: Steps between lines of the log.
        keep_best: Keep the weights of the evaluation with the best mean NDCG.
        monitors: Thresholds by monitor; see `quadrieve_train.monitors`.
        stop_on: Monitors that stop the run.
        seed: Of everything that is drawn.
        trainer: Further arguments of `transformers.TrainingArguments` (`fsdp`, `deepspeed`, …).

    Example:
        >>> Recipe.from_dict({"tasks": {"qa": {"sources": ["medquad"], "labelled": 8}}}).tasks["qa"].losses
        {'graded': 1.0}
    """

    tasks: Mapping[str, TaskRecipe]
    model: str = "minilm"
    revision: str | None = None
    anchor_model: str | None = None
    anchor_revision: str | None = None
    lm: str = "smollm2"
    prefixes: Literal["task", "none"] = "task"
    mining: MiningRecipe = field(default_factory=MiningRecipe)
    rewards: RewardRecipe = field(default_factory=RewardRecipe)
    candidates: int = 8
    query_tokens: int = 256
    key_tokens: int = 256
    steps: int = 10_000
    batch_size: int = 100
    accumulation: int = 1
    batching: Batching = "homogeneous"
    grad_cache: bool = False
    group_tokens: int | None = None
    learning_rate: float = 5e-6
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    tau: float = 0.01
    learn_tau: bool = False
    tau_reward: float = 1.0
    tau_teacher: float = 0.1
    positives_first: bool = False
    pace: PaceRecipe | None = None
    matryoshka: tuple[int, ...] = ()
    lora: int | None = None
    dropout: float | None = None
    train_embeddings: bool = True
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    eval_steps: int = 0
    save_steps: int = 0
    keep_checkpoints: int = 2
    log_steps: int = 10
    keep_best: bool = False
    monitors: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    stop_on: tuple[str, ...] = ()
    seed: int = 13
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        from ..monitors import MONITORS

        if not self.tasks:
            raise InputError("A recipe needs at least one task.")
        for name, task in self.tasks.items():
            _check_task(name, task, self.batching)
        if self.anchor_revision is not None and self.anchor_model is None:
            raise InputError(f"anchor_revision {self.anchor_revision!r} is of the anchor_model, and none is named.")
        for key in (*self.monitors, *self.stop_on):
            if key not in MONITORS:
                raise InputError(f"Unknown monitor {key!r}; the monitors are {', '.join(MONITORS)}.")
        for name in ("candidates", "steps", "batch_size", "accumulation", "group_tokens", "query_tokens", "key_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}.")

    def candidates_of(self, task: str) -> int:
        """Candidates a query of the task."""
        return (self.tasks[task].candidates if task in self.tasks else None) or self.candidates

    def only(self, tasks: Sequence[str]) -> Recipe:
        """The same recipe for some of its tasks.

        Raises:
            InputError: If it does not name one of them.
        """
        for task in tasks:
            if task not in self.tasks:
                raise InputError(f"The recipe has no task {task!r}; its tasks are {', '.join(self.tasks)}.")
        return replace(self, tasks={task: spec for task, spec in self.tasks.items() if task in tasks})

    @classmethod
    def load(cls, recipe: str | os.PathLike[str]) -> Recipe:
        """Read a recipe from a YAML file, or one that comes with the package, such as `cpu`.

        Raises:
            InputError: If there is no such recipe, or a key is unknown or has a value of a wrong type.
        """
        import yaml

        packaged = FOLDER / f"{recipe}.yaml"
        path = packaged if packaged.is_file() else Path(recipe)
        try:
            content = yaml.safe_load(path.read_text(encoding="utf-8"))
        except OSError as error:
            names = ", ".join(sorted(file.stem for file in FOLDER.glob("*.yaml")))
            raise InputError(f"No recipe {str(recipe)!r}: expected a YAML file or one of {names}.") from error
        except yaml.YAMLError as error:
            raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
        try:
            return cls.from_dict(content)
        except InputError as error:
            raise InputError(f"{path.name}: {error}") from error

    @classmethod
    def from_dict(cls, content: Any) -> Recipe:
        """A recipe from nested dictionaries.

        Raises:
            InputError: If a key is unknown, missing, or has a value of a wrong type.
        """
        recipe: Recipe = _build(cls, content, "")
        return recipe

    def to_yaml(self) -> str:
        """The whole recipe, defaults included, as `load` reads it."""
        import yaml

        text: str = yaml.safe_dump(_plain(asdict(self)), sort_keys=False, allow_unicode=True)
        return text


def _check_task(name: str, task: TaskRecipe, batching: Batching) -> None:
    from ..losses import LOSSES

    if find_task(name).name != name:
        raise InputError(f"tasks.{name} is a role; name one of its tasks, such as {find_task(name).name!r}.")
    unknown = set(task.losses) - set(LOSSES)
    if unknown or not task.losses or not task.sources:
        raise InputError(
            f"tasks.{name} needs sources and losses of {', '.join(LOSSES)}; "
            f"got {list(task.sources)} and {dict(task.losses)}."
        )
    if isinstance(task.labelled, Mapping) and not set(task.labelled) <= set(task.sources):
        raise InputError(
            f"tasks.{name}.labelled names sources of the task, {', '.join(task.sources)}; got {dict(task.labelled)}."
        )
    rewarded = any(_is_file(source) or task.labelled_of(source) != 0 for source in task.sources)
    if set(task.losses) <= {"graded", "kl"} and not rewarded:
        raise InputError(
            f"tasks.{name} has only losses that need rewards, and labelled is 0; give it a number, null for "
            "all, or add a contrastive loss."
        )
    if task.anchor < 0:
        raise InputError(f"tasks.{name}.anchor must be at least 0, got {task.anchor}.")
    if task.shares is not None and (batching != "source" or set(task.shares) != set(task.sources)):
        raise InputError(
            f"tasks.{name}.shares goes with batching: source and names each of {', '.join(task.sources)}; got "
            f"{dict(task.shares)} with batching: {batching}."
        )


def _is_file(source: str) -> bool:
    return source.endswith(".jsonl")


def _build(kind: type[Any], content: Any, place: str) -> Any:
    """A dataclass from a dictionary, key by key."""
    if not isinstance(content, Mapping):
        raise InputError(f"{place or 'the recipe'} must be a mapping, got {content!r:.80}.")
    known = [spec.name for spec in fields(kind)]
    for key in content:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the keys are {', '.join(known)}."
            raise InputError(f"unknown key {_join(place, key)!r}; {hint}")
    hints = get_type_hints(kind)
    values = {key: _value(hints[key], value, _join(place, key)) for key, value in content.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise InputError(f"{place or 'the recipe'} lacks a key: {error}.") from error


def _value(hint: Any, value: Any, place: str) -> Any:
    """A value of the hinted type; lists become tuples, whole numbers and `1e-5` become floats where one is hinted."""
    origin, options = get_origin(hint), get_args(hint)
    built: Any = value
    if origin in (Union, types.UnionType):
        others = [option for option in options if option is not type(None)]
        of_mapping = (option for option in others if get_origin(option) is Mapping and isinstance(value, Mapping))
        inner = next(of_mapping, others[0])
        built = None if value is None and type(None) in options else _value(inner, value, place)
    elif is_dataclass(hint) and isinstance(hint, type):
        built = _build(hint, value, place)
    elif origin is tuple and isinstance(value, list | tuple):
        built = tuple(_value(options[0], part, place) for part in value)
    elif origin is Mapping and isinstance(value, Mapping):
        built = {str(key): _value(options[1], part, _join(place, key)) for key, part in value.items()}
    elif hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            built = float(value)
        except ValueError:
            _misfit(hint, value, place)
    elif not (hint is Any or (value in options if origin is Literal else _is_plain(hint, value))):
        _misfit(hint, value, place)
    return built


def _is_plain(hint: Any, value: Any) -> bool:
    return isinstance(hint, type) and isinstance(value, hint) and (hint is bool or not isinstance(value, bool))


def _misfit(hint: Any, value: Any, place: str) -> NoReturn:
    names = ", ".join(repr(option) for option in get_args(hint)) if get_origin(hint) is Literal else _type_name(hint)
    raise InputError(f"{place} must be {names}, got {value!r:.80}.")


def _type_name(hint: Any) -> str:
    if get_origin(hint) is tuple:
        return "a list"
    if get_origin(hint) is not None:
        return "a mapping"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}.get(hint, str(hint))


def _join(place: str, key: object) -> str:
    return f"{place}.{key}" if place else str(key)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(part) for key, part in value.items()}
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value
