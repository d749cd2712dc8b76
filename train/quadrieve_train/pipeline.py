"""From a recipe and data to a model: mine, label, train, export, each step going on where it was stopped."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState  # type: ignore[import-untyped]  # comes without types
from datasets import concatenate_datasets
from transformers import AutoTokenizer, TrainerCallback

from quadrieve import Embedder, checkpoint
from quadrieve.embedder import Vectors
from quadrieve.errors import InputError, StoreError

from .collating import draw_candidates
from .dev import DevSet
from .encoder import BiEncoder
from .errors import StoppedError
from .export import export
from .lm import FrozenLM, LanguageModel
from .lm_server import ServerLM
from .losses import Temperature
from .mining import mine
from .recipes import Recipe, TaskRecipe
from .rewards import LabelOptions, RewardStore, label, reward_health
from .rows import Row, as_row, from_rows, read_collection, read_rows, row_at
from .trainer import MultiTaskTrainer, training_arguments

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class Trained:
    """What a run left: the model's folder, NDCG@10 on each task's dev set before and after, and the log."""

    folder: Path
    before: dict[str, float]
    after: dict[str, float]
    history: tuple[dict[str, float], ...] = ()


def open_lm(name: str, *, device: str | None = None, max_length: int | None = None) -> LanguageModel:
    """The language model of that name: a server for an URL, else a model that is loaded here."""
    if name.startswith(("http://", "https://")):
        return ServerLM(name)
    return FrozenLM.load(name, device=device, max_length=max_length)


def train(
    recipe: Recipe,
    data: Path,
    out: Path,
    *,
    work: Path | None = None,
    mined: Path | None = None,
    rewards: Path | None = None,
    lm: LanguageModel | None = None,
    progress: bool = False,
    use_cpu: bool = False,
) -> Trained:
    """Run a recipe.

    Everything on the way (mined rows, rewards, checkpoints, logs) is kept in `work`; a run that was stopped goes on
    from there. Several processes, started by `accelerate launch`, share mining, labelling and training.

    Args:
        recipe: What to do.
        data: The folder that the recipe's sources are in.
        out: The model's folder; replaced at the end.
        work: Where the way is kept; None for a folder beside `out`.
        mined: Folder of the mined rows, which several runs of one recipe may share; None for one in `work`.
        rewards: Folder of the reward store, which several runs may share; None for one in `work`.
        lm: The language model, in place of the recipe's.
        progress: Show progress bars on stderr.
        use_cpu: Do not use a GPU.

    Raises:
        InputError: If sources are missing, rows do not fit the recipe, or `work` belongs to another recipe.
        StoreError: If the disk is too small.
        DivergedError: If a loss is not finite.
        StoppedError: If a monitor stopped the run.
        KeyboardInterrupt: If Ctrl-C did, after the checkpoint was saved.
    """
    state = PartialState(cpu=use_cpu)
    _check_launch(state)
    work = work or out.with_name(out.name + ".work")
    start = checkpoint.find(recipe.model, revision=recipe.revision)
    anchor = _anchor(recipe, start)
    _check_work(recipe, work, state)
    shown = progress and state.is_main_process
    rows, dev = prepare(recipe, data, work, mined=mined, rewards=rewards, lm=lm, progress=shown)

    torch.manual_seed(recipe.seed)
    temperature = Temperature(recipe.tau, learned=recipe.learn_tau)
    encoder = BiEncoder.load(
        start,
        temperature,
        lora=recipe.lora,
        dropout=recipe.dropout,
        train_embeddings=recipe.train_embeddings,
    )
    tokenizer = AutoTokenizer.from_pretrained(start.folder, trust_remote_code=False)
    check_disk(encoder, recipe, work)
    checkpoints = work / "checkpoints"
    interrupt = InterruptCallback()
    args = training_arguments(
        recipe,
        checkpoints,
        use_cpu=use_cpu,
        disable_tqdm=not progress,
    )
    held = None if anchor is None else BiEncoder.load(anchor, Temperature(recipe.tau), dropout=0)
    trainer = MultiTaskTrainer(encoder, tokenizer, rows, recipe, args, dev=dev, callbacks=[interrupt], anchor=held)
    resume = last_checkpoint(checkpoints)
    with interrupt.listening():
        if resume is None:
            trainer.evaluate()
            trainer.watch.compare_with(measure_start(recipe, dev))
        trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if interrupt.asked:
        raise KeyboardInterrupt
    if trainer.watch.stopped_by:
        raise StoppedError(f"{trainer.watch.stopped_by}; the weights of that step are in {checkpoints}.")
    metrics = trainer.evaluate()
    before = dict(trainer.watch.first.ndcg) if trainer.watch.first else {}
    after = {task: metrics[f"eval_{task}_ndcg@10"] for task in dev}
    if state.is_main_process:
        numbers = {
            name: {"rows": len(dataset), "rewarded": sum(bool(rewards) for rewards in dataset["rewards"])}
            for name, dataset in rows.items()
        }
        trained: Any = trainer.accelerator.unwrap_model(trainer.model)
        figures = {"before": before, "after": after}
        health = _health(rows, recipe)
        export(trained, tokenizer, start, recipe, out, figures=figures, data=numbers, health=health, anchor=anchor)
    state.wait_for_everyone()
    return Trained(out, before, after, tuple(trainer.state.log_history))


def prepare(
    recipe: Recipe,
    data: Path,
    work: Path,
    *,
    mined: Path | None = None,
    rewards: Path | None = None,
    lm: LanguageModel | None = None,
    progress: bool = False,
) -> tuple[dict[str, Dataset], dict[str, DevSet]]:
    """Mine and label what the recipe names: rows and, where the data has one, a dev set for each task."""

    @cache
    def opened() -> LanguageModel:  # not before there is something to label
        return lm if lm is not None else open_lm(recipe.lm, max_length=recipe.rewards.max_length)

    embedder = Embedder.load(recipe.model, revision=recipe.revision)
    mined = mined or work / "mined"
    rows: dict[str, Dataset] = {}
    dev: dict[str, DevSet] = {}
    with RewardStore(rewards or work / "rewards") as store:
        for name, task in recipe.tasks.items():
            found: list[Dataset] = []
            for source in task.sources:
                if source.endswith(".jsonl"):
                    given = _given(data / source, name, recipe, task)
                else:
                    given = _mine(data / source, name, "train", task.queries, recipe, embedder, mined, progress)
                rewarded = concatenate_datasets(_with_rewards(given, source, task, recipe, opened, store, progress))
                found.append(rewarded.add_column("source", [source] * len(rewarded)))
            rows[name] = _useful(concatenate_datasets(found), task)
            if not len(rows[name]):
                raise InputError(f"Task {name!r}: no row of {', '.join(task.sources)} has what its losses need.")
            measured = task.dev or next((s for s in task.sources if not s.endswith(".jsonl")), None)
            if measured is not None:
                dev[name] = _dev(data / measured, name, task, recipe, embedder, opened, store, mined, progress)
    return rows, dev


def measure_start(recipe: Recipe, dev: Mapping[str, DevSet]) -> dict[str, float]:
    """NDCG@10 of the starting weights by task, with their own prefixes or none, on texts cut as training cuts them."""
    start = checkpoint.find(recipe.model, revision=recipe.revision)
    embedder = Embedder(replace(start, max_length=min(start.max_length, recipe.key_tokens)))

    def encode(task: str, texts: Sequence[str], side: str) -> Vectors:
        view = embedder.view(task)
        return (view.embed_queries if side == "query" else view.embed_keys)(texts)

    return {task: measured.measure(partial(encode, task)).ndcg for task, measured in dev.items()}


def check_disk(encoder: BiEncoder, recipe: Recipe, work: Path) -> None:
    """Refuse a run whose checkpoints do not fit: weights and two moments each, in float32.

    Raises:
        StoreError: If the disk of `work` has too little room.
    """
    weights = sum(parameter.numel() for parameter in encoder.parameters()) * 4
    moments = 2 * sum(parameter.numel() for parameter in encoder.parameters() if parameter.requires_grad) * 4
    needed = (weights + moments) * (recipe.keep_checkpoints + 1) + 2 * weights
    work.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(work).free
    if free < needed:
        raise StoreError(
            f"{str(work)!r} has {free / 1e9:.1f} GB free, and checkpoints of this run need {needed / 1e9:.1f} GB; free "
            "some, name another folder, or lower keep_checkpoints."
        )


def last_checkpoint(folder: Path) -> Path | None:
    """The newest checkpoint that was written to its end."""
    found = [path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()]
    return max(found, key=lambda path: int(path.name.rsplit("-", 1)[1]), default=None)


class InterruptCallback(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
    """Makes Ctrl-C save a checkpoint at the end of the step and stop there; a second one stops at once."""

    def __init__(self) -> None:
        self.asked = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take Ctrl-C over while the context is open."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGINT, self._ask)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, previous)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Save and stop, in all processes at the same step."""
        del state
        if args.world_size > 1:
            asked = torch.tensor(float(self.asked), device=args.device)
            torch.distributed.all_reduce(asked)
            self.asked = bool(asked > 0)
        if self.asked:
            control.should_save = control.should_training_stop = True

    def _ask(self, *_: object) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True


def _given(path: Path, name: str, recipe: Recipe, task: TaskRecipe) -> Dataset:
    """The rows of a file that are of the task; their rewards must be of the recipe's language model."""
    dataset: Any = read_rows(path, name)
    mine = dataset.select([i for i, other in enumerate(dataset["task"]) if other == name])
    for source in dict.fromkeys(mine["rewarded_by"]):
        made_by = source.split("@")[0]
        if made_by and not task.relabel and made_by not in (recipe.lm, Path(recipe.lm).name, Path(recipe.lm).stem):
            raise InputError(
                f"{path} has rewards of {source!r}, and the recipe's language model is {recipe.lm!r}; label "
                "the rows again, or name that model in the recipe."
            )
    return mine


def _with_rewards(
    rows: Dataset,
    source: str,
    task: TaskRecipe,
    recipe: Recipe,
    lm: Callable[[], LanguageModel],
    store: RewardStore,
    progress: bool,
) -> list[Dataset]:
    """The rows, as many labelled as the task says; those that have rewards keep them."""
    bare = [i for i, rewards in enumerate(rows["rewards"]) if task.relabel or not rewards]
    answered = [i for i, answers in enumerate(rows["answers"]) if answers]
    able = sorted(set(bare) & set(answered))
    wanted = task.labelled_of(source)
    count = len(able) if wanted is None else min(wanted, len(able))
    chosen = [able[i * len(able) // count] for i in range(count)]  # spread: collections are often sorted
    if bare and not chosen and wanted != 0:
        raise InputError(f"{source} has no answers, and the {recipe.rewards.kind} reward needs the desired output.")
    labelled = _labelled([row_at(rows, i) for i in chosen], recipe, lm, store, progress)
    rest = rows.select(sorted(set(range(len(rows))) - set(chosen)))
    return [from_rows(labelled), rest.map(_without_rewards) if task.relabel else rest]


def _without_rewards(_: dict[str, Any]) -> dict[str, Any]:
    return {"rewards": [], "rewarded_by": "", "qualities": []}


def _useful(rows: Dataset, task: TaskRecipe) -> Dataset:
    """The rows that a loss of the task can learn from."""
    labels = "contrastive" in task.losses
    columns = zip(rows["rewards"], rows["pos"], strict=True)
    return rows.select([i for i, (rewards, pos) in enumerate(columns) if rewards or (pos and labels)])


def _dev(
    folder: Path,
    name: str,
    task: TaskRecipe,
    recipe: Recipe,
    embedder: Embedder,
    lm: Callable[[], LanguageModel],
    store: RewardStore,
    mined: Path,
    progress: bool,
) -> DevSet:
    rewarded: Sequence[Row] = ()
    if task.dev_labelled:
        rows = _mine(folder, name, "dev", task.dev_labelled, recipe, embedder, mined, progress)
        rewarded = _labelled(
            [row for row in map(as_row, rows) if row.answers], recipe, lm, store, progress, quality=True
        )
    return DevSet.from_collection(
        read_collection(folder),
        name,
        queries=task.dev_queries,
        keys=task.dev_keys,
        rewarded=rewarded,
    )


def _mine(
    folder: Path,
    name: str,
    split: str,
    limit: int | None,
    recipe: Recipe,
    embedder: Embedder,
    mined: Path,
    progress: bool,
) -> Dataset:
    spec = recipe.tasks[name].mining or recipe.mining
    with PartialState().main_process_first():
        return mine(
            read_collection(folder),
            name,
            method=spec.method,
            view=None if spec.method == "bm25" else embedder.view(name),
            split=split,
            limit=limit,
            among=spec.among,
            depth=spec.depth,
            keep=spec.keep,
            margin=spec.margin,
            drop_answers=spec.drop_answers,
            folder=mined / f"{name}-{folder.name}-{split}",
            progress=progress,
        )


def _labelled(
    rows: Sequence[Row],
    recipe: Recipe,
    lm: Callable[[], LanguageModel],
    store: RewardStore,
    progress: bool,
    *,
    quality: bool = False,
) -> list[Row]:
    if not rows:
        return []
    spec = recipe.rewards
    options = LabelOptions(
        kind=spec.kind,
        outputs=spec.outputs,
        temperature=spec.temperature,
        top_p=spec.top_p,
        max_new_tokens=spec.max_new_tokens,
        chat=spec.chat,
        quality=quality,
        templates={name: task.template for name, task in recipe.tasks.items() if task.template is not None},
    )
    # The draws do not follow the recipe's seed, so that runs with other seeds share their rewards.
    drawn = [
        draw_candidates(replace(row, rewards=()), recipe.candidates_of(row.task), f"label {row.query_id}")
        for row in rows
    ]
    return [as_row(record) for record in label(drawn, lm(), store, options, progress=progress)]


def _health(rows: Mapping[str, Dataset], recipe: Recipe) -> dict[str, dict[str, Any]]:
    """Health of the rewards of each task that has any."""
    rewarded = {
        name: [row for row in map(as_row, dataset) if len(row.rewards) > 1]
        for name, dataset in rows.items()
        if recipe.tasks[name].losses.keys() & {"graded", "kl"}
    }
    return {
        name: reward_health(found, tau_reward=recipe.tau_reward).to_dict() for name, found in rewarded.items() if found
    }


def _anchor(recipe: Recipe, start: checkpoint.Checkpoint) -> checkpoint.Checkpoint | None:
    """The model that some task of the recipe is held near, if any is.

    Raises:
        InputError: If it does not read texts as the starting weights do.
    """
    if not any(task.anchor for task in recipe.tasks.values()):
        return None
    if recipe.anchor_model is None:
        return start
    found = checkpoint.find(recipe.anchor_model, revision=recipe.anchor_revision)
    tokens = [AutoTokenizer.from_pretrained(c.folder, trust_remote_code=False).get_vocab() for c in (start, found)]
    if tokens[0] != tokens[1] or start.dim != found.dim:
        raise InputError(
            f"anchor_model {found.name!r} must have the vocabulary and the dimensions ({start.dim}) of {start.name!r}; "
            f"it has {found.dim} dimensions. Name the model that training starts from, or one of the same origin."
        )
    return found


def _check_launch(state: PartialState) -> None:
    """Refuse to train alone where several processes were asked for: accelerate sets an address for them all."""
    asked = os.environ.get("ACCELERATE_USE_CPU", "").lower() in ("true", "1") and "MASTER_ADDR" in os.environ
    if asked and state.num_processes == 1:
        raise InputError(
            "`accelerate launch --cpu` starts one process however many are asked for, unless MPI starts them; "
            "leave --cpu to quadrieve: accelerate launch --multi_gpu --num_processes N -m quadrieve_train train … --cpu"
        )


def _check_work(recipe: Recipe, work: Path, state: PartialState) -> None:
    kept = work / "recipe.yaml"
    with state.main_process_first():
        if not kept.exists():
            work.mkdir(parents=True, exist_ok=True)
            kept.write_text(recipe.to_yaml(), encoding="utf-8")
        elif kept.read_text(encoding="utf-8") != recipe.to_yaml():
            raise InputError(
                f"{str(work)!r} holds a run of another recipe; name another folder, or delete it to begin again."
            )
