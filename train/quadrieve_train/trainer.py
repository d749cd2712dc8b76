"""The trainer: many tasks, one encoder, with everything else (checkpoints, precision, devices) from transformers."""

from __future__ import annotations

import contextlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments
from transformers.integrations import TensorBoardCallback

from quadrieve import find_task
from quadrieve.errors import InputError

from .batching import ONE_TASK, Draw, TaskBlockSampler
from .collating import Collator, DrawnRows, prefixes_of
from .dev import DevSet
from .encoder import BiEncoder, cached_backward, gather_rows
from .errors import DivergedError
from .losses import anchor_loss, matryoshka, weighted_sum
from .monitors import MONITORS, Figures, Monitor, effective_rank, mean_cosine
from .pacing import SelfPacedSchedule
from .recipes import PaceRecipe, Recipe
from .rows import as_row

if TYPE_CHECKING:
    from numpy.typing import NDArray

_STATE, _START = "quadrieve_state.json", "quadrieve_start.npz"  # beside a checkpoint's weights


class MultiTaskTrainer(Trainer):  # type: ignore[misc]  # transformers comes without types
    """Trains one encoder on the rows of many tasks.

    A `transformers.Trainer`: `train(resume_from_checkpoint=…)`, `evaluate()`, `save_model()` and callbacks are its
    own. The loss is the recipe's sum for each task, candidates are shared over all processes, and everything that
    was drawn is drawn again after a resume.

    Args:
        encoder: The model.
        tokenizer: Its tokenizer.
        rows: Datasets of rows by task, from `read_rows`, `mine` or `label`.
        recipe: What to do.
        args: Output folder, devices and logging; `training_arguments` makes them of a recipe.
        dev: What each task is measured on.
        callbacks: Further callbacks.
        anchor: The frozen model that tasks with an `anchor` in the recipe are kept near.

    Raises:
        InputError: If a task has no rows, no row has what its losses need, or an anchor is missing.
    """

    def __init__(
        self,
        encoder: BiEncoder,
        tokenizer: Any,
        rows: Mapping[str, Any],
        recipe: Recipe,
        args: TrainingArguments,
        *,
        dev: Mapping[str, DevSet] | None = None,
        callbacks: Sequence[TrainerCallback] = (),
        anchor: BiEncoder | None = None,
    ) -> None:
        _check_rows(rows, recipe)
        if anchor is None and any(recipe.tasks[task].anchor for task in rows):
            raise InputError("A task has an anchor, and no model to be kept near was given (anchor=…).")
        self.recipe = recipe
        self._anchor = None if anchor is None else anchor.eval().requires_grad_(False).to(args.device)
        self.task_rows = dict(rows)
        self.dev = dict(dev or {})
        self.tasks = tuple(self.task_rows)
        self.prefixes = {name: prefixes_of(name, recipe) for name in dict.fromkeys((*self.tasks, *self.dev))}
        self.pace = PaceCallback(recipe.pace)
        self.watch = MonitorCallback([_monitor(name, recipe) for name in MONITORS], recipe.stop_on)
        self._step_losses = np.zeros((len(self.tasks), 2))
        self._logged_losses = np.zeros((len(self.tasks), 2))
        collator = Collator(
            tokenizer,
            self.prefixes,
            candidates={task: recipe.candidates_of(task) for task in self.prefixes},
            query_tokens=recipe.query_tokens,
            key_tokens=recipe.key_tokens,
            # Small groups waste little on padding, large ones keep a GPU busy.
            group_tokens=recipe.group_tokens or (2048 if args.device.type == "cpu" else 16384),
            seed=recipe.seed,
        )
        super().__init__(
            model=encoder,
            args=args,
            data_collator=collator,
            train_dataset=DrawnRows(rows),
            eval_dataset=self.dev or None,
            processing_class=tokenizer,
            callbacks=[self.pace, self.watch, *callbacks],
        )
        self.pace.trainer = self.watch.trainer = self
        self.remove_callback(PrinterCallback)  # stdout is the command's, for its result
        for callback in self.callback_handler.callbacks:
            if isinstance(callback, TensorBoardCallback) and callback.logging_dir is None:
                # Else what is logged before the first step would go to the working directory.
                callback.logging_dir = str(Path(args.output_dir) / "runs")

    def get_train_dataloader(self) -> torch.utils.data.DataLoader[Any]:
        """This process's micro-batches; accelerate is not asked to deal them."""
        sizes = {task: len(rows) for task, rows in self.task_rows.items()}
        chosen = {task: self.recipe.tasks[task] for task in self.tasks}
        own = {task: spec.batch_size or self.recipe.batch_size for task, spec in chosen.items()}
        weights = {task: float(spec.weight or sizes[task]) for task, spec in chosen.items()}
        if len({spec.weight is None for spec in chosen.values()}) > 1:
            raise InputError("Give every task a weight, or none.")
        sampler = TaskBlockSampler(
            sizes,
            own if self.recipe.batching in ONE_TASK else self.recipe.batch_size,
            self.args.max_steps,
            weights=weights,
            batching=self.recipe.batching,
            rank=self.args.process_index,
            world_size=self.args.world_size,
            accumulation=self.args.gradient_accumulation_steps,
            seed=self.recipe.seed,
            sources={t: rows["source"] for t, rows in self.task_rows.items() if "source" in rows.column_names},
            shares={task: spec.shares for task, spec in chosen.items() if spec.shares is not None},
        )
        return torch.utils.data.DataLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=self.args.dataloader_num_workers,
            pin_memory=self.args.dataloader_pin_memory and torch.cuda.is_available(),
        )

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward of one micro-batch; the loss, averaged over its queries.

        Raises:
            DivergedError: If the loss of any process is not finite; what was last good is saved first.
        """
        del num_items_in_batch
        model.train()
        batch = self._prepare_inputs(inputs)
        scale: float = 1.0 / self.current_gradient_accumulation_steps

        def loss_of(vectors: Tensor, temperature: Tensor) -> Tensor:
            loss, losses = self.loss(vectors, temperature, batch)
            self._note(losses, loss, batch)
            return loss * scale

        with self.compute_loss_context_manager():
            if self.recipe.grad_cache:
                return cached_backward(
                    model,
                    batch["groups"],
                    loss_of,
                    self.accelerator.backward,
                    lambda: self.accelerator.no_sync(model) if self.args.world_size > 1 else contextlib.nullcontext(),
                )
            loss = loss_of(*model(batch["groups"]))
        self.accelerator.backward(loss)
        detached: Tensor = loss.detach()
        return detached

    def loss(self, vectors: Tensor, temperature: Tensor, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """The batch's loss and, by task, sum of losses and number of queries `[tasks, 2]`.

        The anchor is part of the first and not of the second: pacing follows what is learned, not what is kept.

        Args:
            vectors: `[n, dim]` in the order of the batch's groups.
            temperature: Scalar.
            batch: From `Collator`.
        """
        recipe, tasks = self.recipe, batch["tasks"]
        vectors = vectors[batch["order"]]
        count = len(tasks)
        queries, own_keys = vectors[:count], vectors[count:]
        keys, offset = gather_rows(own_keys)
        hashes, _ = gather_rows(batch["hashes"])
        own = torch.where(batch["own"] >= 0, batch["own"] + offset, -1)
        negatives = _negatives(hashes, own, batch["known"])
        factors = {number: self.pace.loss_factor(task) for number, task in enumerate(self.tasks)}
        noted = torch.zeros(len(self.tasks), 2, device=vectors.device)

        def total(queries: Tensor, keys: Tensor) -> Tensor:
            scores = queries.float() @ keys.float().T
            parts = []
            for number in tasks.unique().tolist():
                mine = tasks == number
                name = self.tasks[number]
                shared = negatives[mine] if find_task(name).in_batch_negatives else torch.zeros_like(negatives[mine])
                part = weighted_sum(
                    recipe.tasks[name].losses,
                    scores[mine],
                    batch["rewards"][mine],
                    batch["positives"][mine],
                    own[mine],
                    shared,
                    temperature.float(),
                    recipe.tau_reward,
                    recipe.tau_teacher,
                    positives_first=recipe.positives_first,
                )
                queries_of_task = int(mine.sum())
                noted[number] = torch.stack([part.detach() * queries_of_task, part.new_tensor(queries_of_task)])
                parts.append(factors[number] * part * queries_of_task / count)
            return torch.stack(parts).sum()

        learned = matryoshka(total, recipe.matryoshka)(queries, keys)
        return learned + self._anchor_loss(vectors, batch), noted

    def _anchor_loss(self, vectors: Tensor, batch: Mapping[str, Any]) -> Tensor:
        """What the texts of anchored tasks lose by leaving the anchor's vectors; `vectors` are in the batch's order."""
        if self._anchor is None:
            return vectors.new_zeros(())
        by_task = vectors.new_tensor([self.recipe.tasks[task].anchor for task in self.tasks])
        of_query = by_task[batch["tasks"]]
        if not bool(of_query.any()):
            return vectors.new_zeros(())
        own, of_key = batch["own"], vectors.new_zeros(len(vectors) - len(of_query))
        present = own >= 0
        of_key[own[present]] = of_query.unsqueeze(1).expand(own.shape)[present]
        with torch.no_grad():
            anchors = self._anchor(batch["groups"])[0][batch["order"]]
        return anchor_loss(vectors, anchors, torch.cat([of_query, of_key]))

    def encode(self, task: str, texts: Sequence[str], side: str) -> NDArray[np.float32]:
        """Unit vectors of texts as they are now, without gradients."""
        prefix = getattr(self.prefixes[task], side)
        collator: Collator = self.data_collator
        groups, order = collator.group([prefix + text for text in texts], len(texts) if side == "query" else 0)
        model = self.accelerator.unwrap_model(self.model)
        training = model.training
        model.eval()
        vectors = []
        with torch.inference_mode(), self.accelerator.autocast():
            for group in groups:
                on_device = self._prepare_inputs(group)
                vectors.append(model([on_device])[0].float().cpu())
        model.train(training)
        rows: NDArray[np.float32] = torch.cat(vectors)[order].numpy()
        return rows

    def evaluate(self, *_: Any, metric_key_prefix: str = "eval", **__: Any) -> dict[str, float]:
        """Measure every task on its dev set, let the monitors look, and return what was found."""
        figures = self._figures()
        metrics = {f"{metric_key_prefix}_{task}_ndcg@10": value for task, value in figures.ndcg.items()}
        if figures.ndcg:
            metrics[f"{metric_key_prefix}_ndcg@10"] = float(np.mean(list(figures.ndcg.values())))
        for name in ("drift", "effective_rank", "mean_cosine", "gradient_cosine", "reward", "quality"):
            for task, value in getattr(figures, name).items():
                metrics[f"{metric_key_prefix}_{task}_{name}"] = value
        self.log(dict(metrics))
        self.watch.look(figures)
        self.control: Any = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the weights; in a checkpoint, also the state of pacing and monitors."""
        super().save_model(output_dir, _internal_call)
        if _internal_call and output_dir is not None and self.args.should_save:
            state = {"pace": self.pace.schedule.state(), "monitors": self.watch.state()}
            (Path(output_dir) / _STATE).write_text(json.dumps(state) + "\n", encoding="utf-8")
            np.savez(Path(output_dir) / _START, allow_pickle=False, **self.watch.start)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        folder = Path(resume_from_checkpoint)
        state = json.loads((folder / _STATE).read_text(encoding="utf-8"))
        self.pace.schedule.load_state(state["pace"])
        with np.load(folder / _START, allow_pickle=False) as start:
            self.watch.load_state(state["monitors"], {task: start[task] for task in start.files})

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add each task's loss since the last line, and its pace."""
        if "loss" in logs:
            for number, task in enumerate(self.tasks):
                total, count = self._logged_losses[number]
                if count:
                    logs[f"loss/{task}"] = total / count
                if self.recipe.pace is not None:
                    logs[f"pace/{task}"] = self.pace.schedule.factor(task)
            self._logged_losses[:] = 0
        super().log(logs, *args, **kwargs)

    def take_step_losses(self) -> dict[str, float]:
        """Mean loss by task over the step's micro-batches and all processes; forgets them."""
        found = {
            task: float(total / count)
            for task, (total, count) in zip(self.tasks, self._step_losses, strict=True)
            if count
        }
        self._step_losses[:] = 0
        return found

    def _note(self, losses: Tensor, loss: Tensor, batch: Mapping[str, Any]) -> None:
        """Add up losses over processes, and stop all of them where one is not finite."""
        total = torch.cat([losses.detach().float().flatten(), (~loss.detach().isfinite()).float().reshape(1)])
        if self.args.world_size > 1:
            torch.distributed.all_reduce(total)
        if total[-1] > 0:
            self._save_diverged(bool(loss.isfinite()), batch)
        step = total[:-1].reshape(-1, 2).cpu().numpy().astype(np.float64)
        self._step_losses += step
        self._logged_losses += step

    def _save_diverged(self, finite: bool, batch: Mapping[str, Any]) -> None:
        folder = Path(self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        report = folder / f"diverged-batch-{self.args.process_index}.json"
        report.write_text(
            json.dumps({"step": self.state.global_step, "finite_here": finite, "rows": batch["names"]}, indent=2) + "\n"
        )
        self._save_checkpoint(self.model, trial=None)
        raise DivergedError(
            f"The loss of step {self.state.global_step + 1} is not finite; the weights before it are in "
            f"{folder}/checkpoint-{self.state.global_step}, the batch is named in {report.name}: look at its rows and "
            "rewards, lower the learning rate, or compute in float32."
        )

    def _figures(self) -> Figures:
        by_task: dict[str, dict[str, float]] = {name: {} for name in Figures.__annotations__ if name != "step"}
        for task, dev in self.dev.items():
            found = dev.measure(partial(self.encode, task))
            by_task["ndcg"][task] = found.ndcg
            by_task["drift"][task] = self.watch.drift(task, found.queries)
            if len(found.keys) > 1:
                by_task["effective_rank"][task] = effective_rank(found.keys[:1000])
                by_task["mean_cosine"][task] = mean_cosine(found.keys)
            if found.reward is not None:
                by_task["reward"][task] = found.reward
            if found.quality is not None:
                by_task["quality"][task] = found.quality
        by_task["loss"] = dict(self.watch.smoothed)
        if len(self.tasks) > 1:
            by_task["gradient_cosine"] = self._gradient_cosines()
        return Figures(step=self.state.global_step, **by_task)

    def _gradient_cosines(self, queries: int = 8) -> dict[str, float]:
        """Cosines between tasks' gradients on a few of their rows, in the last layer's weights."""
        model = self.accelerator.unwrap_model(self.model)
        parameters = [parameter for parameter in model.backbone.parameters() if parameter.requires_grad][-16:]
        collator: Any = self.data_collator
        training = model.training
        model.eval()
        gradients: dict[str, Tensor] = {}
        for task in self.tasks:
            count = min(queries, len(self.task_rows[task]))
            rows = [(Draw(task, i, 0), as_row(self.task_rows[task][i])) for i in range(count)]
            batch = self._prepare_inputs(collator(rows))
            with self.accelerator.autocast():
                vectors, temperature = model(batch["groups"])
                loss, _ = self.loss(vectors, temperature, batch)
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            gradients[task] = torch.cat([part.float().flatten() for part in found if part is not None])
        model.train(training)
        return {
            f"{a}/{b}": float(torch.nn.functional.cosine_similarity(gradients[a], gradients[b], dim=0))
            for i, a in enumerate(self.tasks)
            for b in self.tasks[:i]
        }


class PaceCallback(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
    """Applies a self-paced schedule around each optimizer step."""

    trainer: MultiTaskTrainer

    def __init__(self, recipe: PaceRecipe | None) -> None:
        self._by = recipe.by if recipe is not None else None
        options = {} if recipe is None else {name: getattr(recipe, name) for name in _PACE_OPTIONS}
        self.schedule = SelfPacedSchedule(**options)
        self._rates: list[float] = []

    def loss_factor(self, task: str) -> float:
        """What the task's loss is multiplied with."""
        return self.schedule.factor(task) if self._by == "loss" else 1.0

    def on_pre_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        """Set the step's learning rate."""
        losses = self.trainer.take_step_losses()
        self.trainer.watch.smooth(losses)
        if self._by is None:
            return
        if self._by == "lr":
            factor = float(np.mean([self.schedule.factor(task) for task in losses])) if losses else 1.0
            groups = kwargs["optimizer"].param_groups
            self._rates = [group["lr"] for group in groups]
            for group in groups:
                group["lr"] *= factor
        self.schedule.update(losses)

    def on_optimizer_step(self, *_: Any, **kwargs: Any) -> None:
        """Give the scheduler its own learning rate back."""
        for group, rate in zip(kwargs["optimizer"].param_groups, self._rates, strict=False):
            group["lr"] = rate
        self._rates = []


_PACE_OPTIONS = ("interval", "alpha", "direction", "low", "high", "smoothing")


class MonitorCallback(TrainerCallback):  # type: ignore[misc]  # transformers comes without types
    """Shows the monitors each evaluation next to the first one, warns, and stops where it was told to."""

    trainer: MultiTaskTrainer

    def __init__(self, monitors: Sequence[Monitor], stop_on: Sequence[str] = ()) -> None:
        self._monitors, self._stop_on = list(monitors), set(stop_on)
        self.first: Figures | None = None
        self.stopped_by: str | None = None
        self.smoothed: dict[str, float] = {}
        self.start: dict[str, NDArray[np.float32]] = {}

    def smooth(self, losses: Mapping[str, float]) -> None:
        """Follow each task's loss."""
        for task, loss in losses.items():
            self.smoothed[task] = 0.9 * self.smoothed.get(task, loss) + 0.1 * loss

    def drift(self, task: str, queries: NDArray[np.float32]) -> float:
        """Mean cosine distance of the queries' vectors from the first ones seen."""
        start = self.start.setdefault(task, queries)
        return float(1 - (start * queries).sum(axis=1).mean())

    def state(self) -> dict[str, Any]:
        """What it compares with, as JSON values; the first vectors (`start`) are saved beside."""
        return {"first": asdict(self.first) if self.first else None, "smoothed": self.smoothed}

    def load_state(self, state: Mapping[str, Any], start: Mapping[str, NDArray[np.float32]]) -> None:
        """Go on from what `state` and `start` were."""
        self.first = Figures(**state["first"]) if state["first"] else None
        self.smoothed, self.start = dict(state["smoothed"]), dict(start)

    def compare_with(self, ndcg: Mapping[str, float]) -> None:
        """Take these for the figures that tasks began with."""
        if self.first is not None:
            self.first = replace(self.first, ndcg=dict(ndcg))

    def look(self, figures: Figures) -> None:
        """Warn of everything that is wrong."""
        if self.first is None:
            self.first = figures
        elif not self.first.loss and figures.loss:  # there was no loss before the first step
            self.first = replace(self.first, loss=figures.loss)
        for monitor in self._monitors:
            for message in monitor.check(self.first, figures):
                warnings.warn(f"Step {figures.step}: {message}.", monitor.warning, stacklevel=2)
                if monitor.name in self._stop_on:
                    self.stopped_by = self.stopped_by or f"{monitor.name}: {message}"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Stop after the step that follows an alarm, saving it."""
        del args, state
        if self.stopped_by is not None:
            control.should_save = control.should_training_stop = True


def training_arguments(recipe: Recipe, folder: Path, **more: Any) -> TrainingArguments:
    """The arguments of transformers that a recipe stands for."""
    on_cpu = more.pop("use_cpu", False) or not (torch.cuda.is_available() or torch.backends.mps.is_available())
    options: dict[str, Any] = {
        "use_cpu": on_cpu,
        "output_dir": str(folder),
        "max_steps": recipe.steps,
        "per_device_train_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.accumulation,
        "learning_rate": recipe.learning_rate,
        "warmup_steps": round(recipe.warmup * recipe.steps),
        "lr_scheduler_type": recipe.schedule,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.max_grad_norm,
        "bf16": _use_bf16(recipe.precision, on_cpu),
        "eval_strategy": "steps" if recipe.eval_steps else "no",
        "eval_steps": recipe.eval_steps or None,
        "save_strategy": "steps" if recipe.save_steps else "no",
        "save_steps": recipe.save_steps or recipe.steps,
        "save_total_limit": recipe.keep_checkpoints,
        "load_best_model_at_end": recipe.keep_best,
        "metric_for_best_model": "ndcg@10" if recipe.keep_best else None,
        "greater_is_better": True if recipe.keep_best else None,
        "logging_steps": recipe.log_steps,
        "logging_nan_inf_filter": False,
        "report_to": ["tensorboard"],
        "remove_unused_columns": False,
        "ddp_find_unused_parameters": False,
        "seed": recipe.seed,
        "dataloader_pin_memory": torch.cuda.is_available(),
    }
    return TrainingArguments(**{**options, **recipe.trainer, **more})


def _use_bf16(precision: str, on_cpu: bool) -> bool:
    if precision != "auto":
        return precision == "bfloat16"
    if torch.cuda.is_available() and not on_cpu:
        return bool(torch.cuda.is_bf16_supported())
    return bool(torch.cpu._is_avx512_bf16_supported())


def _negatives(hashes: Tensor, own: Tensor, known: Tensor) -> Tensor:
    """`[B, K]`: candidates that are neither the query's own nor known positives of it, equal texts once."""
    same = hashes.unsqueeze(1) == hashes.unsqueeze(0)
    first = ~same.tril(diagonal=-1).any(dim=1)
    mine = torch.where(own >= 0, hashes[own.clamp(min=0)], torch.zeros_like(own))
    excluded = torch.cat([mine, known], dim=1)
    return first.unsqueeze(0) & ~(hashes.view(1, 1, -1) == excluded.unsqueeze(2)).any(dim=1)


def _monitor(name: str, recipe: Recipe) -> Monitor:
    try:
        monitor: Monitor = MONITORS[name](**recipe.monitors.get(name, {}))
    except TypeError as error:
        raise InputError(f"monitors.{name} has an unknown threshold: {error}.") from error
    return monitor


def _check_rows(rows: Mapping[str, Any], recipe: Recipe) -> None:
    """Refuse tasks whose rows cannot teach what their losses need, and rewards of several language models."""
    for task, dataset in rows.items():
        if task not in recipe.tasks:
            raise InputError(f"There are rows of task {task!r}, which the recipe does not name.")
        if not len(dataset):
            raise InputError(f"Task {task!r} has no rows.")
        losses = recipe.tasks[task].losses
        rewarded = any(len(rewards) for rewards in dataset["rewards"])
        labelled = any(len(pos) for pos in dataset["pos"])
        if set(losses) & {"graded", "kl"} and not rewarded:
            raise InputError(
                f"Task {task!r} has a {'graded' if 'graded' in losses else 'kl'} loss, and none of its rows has "
                "rewards; label them first (quadrieve label)."
            )
        if "contrastive" in losses and not labelled:
            raise InputError(f"Task {task!r} has a contrastive loss, and none of its rows has a labelled positive.")
        sources = {source for source in dataset["rewarded_by"] if source}
        if len(sources) > 1:
            raise InputError(
                f"Task {task!r} mixes rewards of {', '.join(sorted(sources))}; label all its rows with one language "
                "model and one kind of reward."
            )
