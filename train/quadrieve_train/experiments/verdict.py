"""What the figures of an experiment say, and whether they can say it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..evaluation.statistics import Difference, paired_bootstrap
from .arms import Contrast, Experiment

#: Steps and queries a step of the paper's run.
PAPER_STEPS, PAPER_BATCH = 10_000, 800

Result = Mapping[str, Any]


def judge(result: Result, claim: Contrast) -> tuple[Difference, bool]:
    """How much better the one arm is than the other, by test query, and whether all seeds agree on the sign.

    Figures are means over the seeds; each task counts alike however many queries it has.
    """
    better, worse = (_seeds(result, name) for name in (claim.better, claim.worse))
    tasks = claim.on or tuple(result["tasks"])
    gaps = [np.mean([run[t] for run in better], axis=0) - np.mean([run[t] for run in worse], axis=0) for t in tasks]
    total = sum(map(len, gaps))
    weighed = np.concatenate([gap * total / (len(tasks) * len(gap)) for gap in gaps])
    signs = {bool(np.mean([np.mean(a[t]) - np.mean(b[t]) for t in tasks]) > 0) for a in better for b in worse}
    return paired_bootstrap(weighed.tolist(), [0.0] * total), len(signs) == 1


def say(claim: Contrast, found: Difference, agree: bool = True) -> str:
    """A plain sentence with its interval.

    Example:
        >>> say(Contrast("a", "b"), Difference(0.01, -0.02, 0.04))
        '`a` minus `b` over all tasks: +0.010 (-0.020 to +0.040). Too small to tell.'
    """
    where = f"on {', '.join(claim.on)}" if claim.on else "over all tasks"
    head = f"`{claim.better}` minus `{claim.worse}` {where}: {found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})."
    if not found.significant:
        return f"{head} Too small to tell."
    if not agree:
        return f"{head} The seeds disagree, so too small to tell."
    return f"{head} `{claim.better if found.mean > 0 else claim.worse}` is better here."


def begins(claims: Sequence[Contrast], found: Sequence[tuple[Difference, bool]]) -> str:
    """The first of a series at which what is called worse is worse.

    Example:
        >>> claims = [Contrast("a", "b"), Contrast("a", "c")]
        >>> begins(claims, [(Difference(0.0, -0.1, 0.1), True), (Difference(0.2, 0.1, 0.3), True)])
        'degradation begins at `c`.'
    """
    lost = (claim.worse for claim, (gap, agree) in zip(claims, found, strict=True) if agree and gap.low > 0)
    point = next(lost, None)
    return f"degradation begins at `{point}`." if point else f"no degradation was found up to `{claims[-1].worse}`."


def to_markdown(name: str, experiment: Experiment, result: Result, command: str) -> str:
    """The report: the cross table, stability, the verdict with its intervals, and what a full run would cost."""
    lines = [f"# {name}: {experiment.question}", "", *_cross_table(result), "", *_stability(result), ""]
    flat = ", ".join(f"{rows} {share:.0%}" for rows, share in result["flat"].items())
    lines += [f"Labelled rows whose rewards are all alike: {flat or 'none was labelled'}.", "", "## Verdict", ""]
    lines += [f"- {say(claim, *judge(result, claim))}" for claim in experiment.contrasts]
    for series, claims in experiment.series.items():
        lines += [f"- {series}: {begins(claims, [judge(result, claim) for claim in claims])}"]
        lines += [f"  - {say(claim, *judge(result, claim))}" for claim in claims]
    lines += [
        "",
        "Intervals: 95 %, bootstrap over test queries of the mean over seeds; a difference counts where its interval "
        "leaves 0 out and every pair of seeds has its sign.",
        "",
        _cost(experiment, result),
        "",
        f"Command: `{command}`",
        "",
    ]
    return "\n".join(lines)


def steps_to_converge(losses: Sequence[float]) -> int:
    """The first step at which the lowest loss so far has made 90 % of its fall.

    Example:
        >>> steps_to_converge([4.0, 2.0, 1.0, 1.0])
        3
    """
    curve = np.minimum.accumulate(np.asarray(losses, dtype=np.float64))
    goal = curve[0] - 0.9 * (curve[0] - curve[-1])
    return int(np.argmax(curve <= goal)) + 1


def write_picture(experiment: Experiment, result: Result, path: Path) -> None:
    """Each contrast with its interval, beside a line at zero."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    claims = [*experiment.contrasts, *(claim for series in experiment.series.values() for claim in series)][::-1]
    figure = Figure(figsize=(9, 1 + 0.6 * len(claims)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, claim in enumerate(claims):
        found, _ = judge(result, claim)
        axes.plot([found.low, found.high], [place, place], color="tab:blue")
        axes.plot(found.mean, place, "o", color="tab:blue")
    labels = [f"{c.better} - {c.worse}" + (f" ({', '.join(c.on)})" if c.on else "") for c in claims]
    axes.set_yticks(range(len(labels)), labels)
    axes.axvline(0, color="grey", linewidth=0.8)
    axes.set_xlabel("difference (NDCG@10; log-likelihood per token where read), 95 % interval over queries")
    figure.savefig(path, dpi=120)


def _seeds(result: Result, name: str) -> list[Mapping[str, list[float]]]:
    """Figures of an arm for each seed, or of what was not trained."""
    if name in result["untrained"]:
        return [result["untrained"][name]]
    return [run["figures"] for run in result["arms"][name].values()]


def _cross_table(result: Result) -> list[str]:
    columns = list(result["untrained"]["BM25"])
    own = [columns.index(task) for task in result["tasks"]]
    lines = [
        "NDCG@10 on test queries (where a language model reads, log-likelihood per token of the answer), mean over"
    ]
    lines += ["seeds (distance of the seeds); the last column is the mean of the trained tasks.", ""]
    lines += ["| | " + " | ".join(columns) + " | mean |", "|---" * (len(columns) + 2) + "|"]
    for name in (*result["untrained"], *result["arms"]):
        means = np.array([[np.mean(figures[column]) for column in columns] for figures in _seeds(result, name)])
        spread = [f" ({np.ptp(values):.3f})" if len(values) > 1 else "" for values in means.T]
        cells = [f"{mean:.3f}{more}" for mean, more in zip(means.mean(axis=0), spread, strict=True)]
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {means[:, own].mean():.3f} |")
    return lines


def _stability(result: Result) -> list[str]:
    """Loss at the end, its variance and its speed, each task's own and then their mean: tasks differ in level."""
    lines = ["| arm | last loss | variance of the loss | steps to 90 % of its fall |", "|---|---|---|---|"]
    for arm, runs in result["arms"].items():
        curves = [losses for run in runs.values() for losses in run["losses"].values() if losses]
        last, variance, steps = (
            float(np.mean([measure(curve) for curve in curves]))
            for measure in (lambda curve: curve[-1], np.var, steps_to_converge)
        )
        lines.append(f"| {arm} | {last:.3f} | {variance:.3f} | {steps:.1f} |")
    return [*lines, "", "By task, then their mean; steps are those that saw the task."]


def _cost(experiment: Experiment, result: Result) -> str:
    arm = next(iter(experiment.arms.values())).recipe
    seconds = float(np.mean([run["seconds"] for runs in result["arms"].values() for run in runs.values()]))
    full = seconds * PAPER_STEPS / arm.steps * PAPER_BATCH / arm.batch_size / 3600
    return (
        f"An arm took {seconds:.0f} s ({arm.steps} steps of {arm.batch_size} queries). At this machine's speed the "
        f"paper's {PAPER_STEPS:,} steps of {PAPER_BATCH} queries would take {full:,.0f} hours an arm."
    )
