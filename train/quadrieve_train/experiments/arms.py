"""What each experiment compares: recipes that differ in one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from ..recipes import PaceRecipe, Recipe, TaskRecipe
from ..rewards import RewardKind

#: One task for each role, in the order of the paper's tables.
TASKS = ("qa", "chat", "icl", "tool")


@dataclass(frozen=True)
class Arm:
    """One way to train.

    Attributes:
        recipe: Its recipe; the language model in it labels.
        reward: The kind of reward that its rows carry.
    """

    recipe: Recipe
    reward: RewardKind = "rank"


@dataclass(frozen=True)
class Contrast:
    """A claim of the paper: that `better` beats `worse`, on some figures or, for none named, on all tasks."""

    better: str
    worse: str
    on: tuple[str, ...] = ()


@dataclass(frozen=True)
class Experiment:
    """A question, the arms that answer it and the contrasts that are judged.

    Attributes:
        question: What is asked.
        arms: By name.
        contrasts: What is judged.
    """

    question: str
    arms: Mapping[str, Arm]
    contrasts: tuple[Contrast, ...] = field(default=())


def base_recipe(*, model: str, lm: str, steps: int, batch_size: int) -> Recipe:
    """The whole method at a small size; rows are called `TASK-REWARD.jsonl`."""
    return Recipe(
        tasks={name: _task(name) for name in TASKS},
        model=model,
        lm=lm,
        candidates=4,
        query_tokens=48,
        key_tokens=64,
        steps=steps,
        batch_size=batch_size,
        learning_rate=1e-4,
        tau=0.05,
        tau_reward=0.2,
        pace=PaceRecipe(interval=max(1, steps // 4)),
        log_steps=1,
    )


def reward(base: Recipe) -> Experiment:
    """Rank-aware reward against likelihood, on one role and over all, where rewards alone teach."""
    alone = _losses(base, {"graded": 1.0})
    arms = {
        "rank, all roles": Arm(alone),
        "likelihood, all roles": _likelihood(alone),
        "rank, examples only": Arm(_only(alone, "icl")),
        "likelihood, examples only": _likelihood(_only(alone, "icl")),
    }
    return Experiment(
        "Does the rank-aware reward teach more than the likelihood?",
        arms,
        (
            Contrast("rank, all roles", "likelihood, all roles"),
            Contrast("rank, examples only", "likelihood, examples only", ("icl",)),
        ),
    )


def multitask(base: Recipe) -> Experiment:
    """One model against four specialists."""
    arms = {"all roles": Arm(base)} | {f"{task} only": Arm(_only(base, task)) for task in TASKS}
    return Experiment(
        "Does one model for four roles keep up with four specialists?",
        arms,
        tuple(Contrast("all roles", f"{task} only", (task,)) for task in TASKS),
    )


def batching(base: Recipe) -> Experiment:
    """Homogeneous, heterogeneous and mixed batches."""
    arms = {
        "homogeneous": Arm(base),
        "heterogeneous": Arm(replace(base, batching="heterogeneous")),
        "mixed": Arm(replace(base, batching="mixed")),
    }
    return Experiment(
        "Do batches of one task teach more than batches of all?",
        arms,
        (Contrast("homogeneous", "heterogeneous"), Contrast("homogeneous", "mixed")),
    )


def ablation(base: Recipe) -> Experiment:
    """The five switches of the paper's Table 4."""
    arms = {
        "whole method": Arm(base),
        "no rank-aware reward": _likelihood(base),
        "no graded distillation": Arm(_losses(base, {"kl": 0.5, "contrastive": 1.0})),
        "no self-pacing": Arm(replace(base, pace=None)),
        "no homogeneous batches": Arm(replace(base, batching="heterogeneous")),
        "no diversified prompts": Arm(replace(base, prefixes="none")),
    }
    return Experiment(
        "What does each part of the method add?",
        arms,
        tuple(Contrast("whole method", name) for name in arms if name != "whole method"),
    )


#: Experiments by name.
EXPERIMENTS: dict[str, Callable[[Recipe], Experiment]] = {
    "reward": reward,
    "multitask": multitask,
    "batching": batching,
    "ablation": ablation,
}


def _task(name: str) -> TaskRecipe:
    return TaskRecipe(sources=(f"{name}-rank.jsonl",), losses={"graded": 0.5, "contrastive": 1.0}, weight=1.0)


def _only(base: Recipe, task: str) -> Recipe:
    return replace(base, tasks={task: base.tasks[task]})


def _losses(base: Recipe, losses: Mapping[str, float]) -> Recipe:
    return replace(base, tasks={name: replace(task, losses=losses) for name, task in base.tasks.items()})


def _likelihood(base: Recipe) -> Arm:
    tasks = {name: replace(task, sources=(f"{name}-likelihood.jsonl",)) for name, task in base.tasks.items()}
    return Arm(replace(base, tasks=tasks), "likelihood")
