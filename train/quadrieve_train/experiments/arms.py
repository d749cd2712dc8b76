"""What each experiment compares: recipes that differ in one thing."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path

from quadrieve import find_task, register_task
from quadrieve.errors import InputError

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
        after: The arm, named earlier, whose model it starts from; empty for the recipe's.
    """

    recipe: Recipe
    reward: RewardKind = "rank"
    after: str = ""


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
        series: By name, contrasts of growing strain: the verdict names the first at which `worse` is worse.
        sources: Collections of tasks that are the experiment's own.
        outside: Sources by name, of which pairs are found that nobody trains for.
        readers: Language models that read what was found.
    """

    question: str
    arms: Mapping[str, Arm]
    contrasts: tuple[Contrast, ...] = ()
    series: Mapping[str, tuple[Contrast, ...]] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)
    readers: tuple[str, ...] = ()


@dataclass(frozen=True)
class Settings:
    """What experiments are built from.

    Attributes:
        base: The whole method.
        models: Backbones that `scaling` compares.
        lms: Language models that `llm-transfer` compares.
        many: Task to be like, and source, of each task of `many-tasks`.
        outside: Sources by name for `transfer`.
    """

    base: Recipe
    models: tuple[str, ...] = ()
    lms: tuple[str, ...] = ()
    many: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    outside: Mapping[str, str] = field(default_factory=dict)


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


def reward(given: Settings) -> Experiment:
    """Rank-aware reward against likelihood, on one role and over all, where rewards alone teach."""
    alone = _losses(given.base, {"graded": 1.0})
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


def multitask(given: Settings) -> Experiment:
    """One model against four specialists."""
    base = given.base
    arms = {"all roles": Arm(base)} | {f"{task} only": Arm(_only(base, task)) for task in TASKS}
    return Experiment(
        "Does one model for four roles keep up with four specialists?",
        arms,
        tuple(Contrast("all roles", f"{task} only", (task,)) for task in TASKS),
    )


def batching(given: Settings) -> Experiment:
    """Homogeneous, heterogeneous and mixed batches."""
    base = given.base
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


def ablation(given: Settings) -> Experiment:
    """The five switches of the paper's Table 4."""
    base = given.base
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


def interference(given: Settings) -> Experiment:
    """Frequency and order of tasks, until what the others learned is lost."""
    base = given.base
    arms: dict[str, Arm] = {}
    frequency = []
    for share in (0.25, 0.5, 0.75, 0.9):
        name = f"tool {share:.0%} of the steps"
        often = replace(base.tasks["tool"], weight=round(3 * share / (1 - share), 6))
        arms[name] = Arm(replace(base, tasks={**base.tasks, "tool": often}))
        frequency.append(Contrast(next(iter(arms)), name, ("qa", "chat", "icl")))
    series = {"frequency of tool": tuple(frequency[1:])}
    quarter = replace(base, steps=max(1, base.steps // len(TASKS)))
    for order in (TASKS, tuple(reversed(TASKS))):
        names = [" then ".join(order[: i + 1]) for i in range(len(order))]
        for name, before, task in zip(names, ["", *names], order, strict=False):
            arms[name] = Arm(_only(quarter, task), after=before)
        series[f"order {names[-1]}"] = tuple(Contrast(names[0], later, (order[0],)) for later in names[1:])
    return Experiment("When does training for one task undo another?", arms, series=series)


def many_tasks(given: Settings) -> Experiment:
    """Self-pacing over many tasks, each a task of its own."""
    if len(given.many) < 2:
        raise InputError(f"many-tasks needs collections with several tasks, found {len(given.many)} in the data.")
    for name, (like, _) in given.many.items():
        register_task(replace(find_task(like), name=name))
    steps = max(given.base.steps, 2 * len(given.many))
    paced = replace(
        given.base,
        tasks={name: _task(name) for name in given.many},
        steps=steps,
        pace=PaceRecipe(interval=max(1, steps // 4)),
    )
    return Experiment(
        f"Does self-pacing help with {len(given.many)} tasks?",
        {"self-paced": Arm(paced), "not paced": Arm(replace(paced, pace=None))},
        (Contrast("self-paced", "not paced"),),
        sources={name: source for name, (_, source) in given.many.items()},
    )


def scaling(given: Settings) -> Experiment:
    """Backbones, each before and after training."""
    arms = {f"trained {_label(model)}": Arm(replace(given.base, model=model)) for model in given.models}
    names = list(arms)
    gains = [Contrast(name, start(model)) for name, model in zip(names, given.models, strict=True)]
    sizes = [Contrast(later, earlier) for earlier, later in pairwise(names)]
    return Experiment("What does another backbone add?", arms, (*gains, *sizes))


def transfer(given: Settings) -> Experiment:
    """Retrieval outside the four roles: what training for them does to it."""
    if not given.outside:
        raise InputError("transfer needs a collection of examples whose outputs differ, and the data has none.")
    untrained = start(given.base.model)
    return Experiment(
        "Does training for four roles cost what the starting weights could do outside of them?",
        {"all roles": Arm(given.base)},
        (
            Contrast("all roles", untrained),
            Contrast("all roles", untrained, tuple(given.outside)),
            *(Contrast("all roles", untrained, (name,)) for name in given.outside),
        ),
        outside=given.outside,
    )


def llm_transfer(given: Settings) -> Experiment:
    """Rewards from one language model, read by another."""
    if len(given.lms) < 2:
        raise InputError("llm-transfer compares language models; repeat --lm, such as --lm smollm2 --lm model.gguf.")
    alone = _losses(given.base, {"graded": 1.0})
    arms = {f"rewards of {_label(lm)}": Arm(replace(alone, lm=lm)) for lm in given.lms}
    pairs = [(reader, other) for reader in given.lms for other in given.lms if other != reader]
    return Experiment(
        "Do a language model's own rewards serve it better than another's?",
        arms,
        tuple(
            Contrast(
                f"rewards of {_label(reader)}",
                f"rewards of {_label(other)}",
                tuple(read_by(task, reader) for task in TASKS),
            )
            for reader, other in pairs
        ),
        readers=given.lms,
    )


def start(model: str) -> str:
    """What the starting weights are called among the results."""
    return f"start ({_label(model)})"


def read_by(task: str, lm: str) -> str:
    """What the log-likelihood of a task's answers is called among the figures."""
    return f"{task} read by {_label(lm)}"


#: Experiments by name.
EXPERIMENTS: dict[str, Callable[[Settings], Experiment]] = {
    "reward": reward,
    "multitask": multitask,
    "batching": batching,
    "ablation": ablation,
    "interference": interference,
    "many-tasks": many_tasks,
    "scaling": scaling,
    "transfer": transfer,
    "llm-transfer": llm_transfer,
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


def _label(name: str) -> str:
    return Path(name).name
