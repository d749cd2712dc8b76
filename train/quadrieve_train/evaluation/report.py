"""The result of an evaluation as JSON, a Markdown table and a picture, and two of them beside each other."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from quadrieve.errors import InputError

from .statistics import paired_bootstrap

Report = dict[str, Any]
#: What a set is told by in one number, the first that it has.
_HEADLINES = ("ndcg@10", "accuracy", "contains", "rouge_l", "nll", "nll@1")


def read_report(path: Path) -> Report:
    """A report that `quadrieve evaluate` wrote.

    Raises:
        InputError: If the file is none.
    """
    try:
        report: Report = json.loads(path.read_text(encoding="utf-8"))
        report["sets"], report["model"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is no report of `quadrieve evaluate`: {error}.") from error
    return report


def to_markdown(report: Report) -> str:
    """A table for each set: systems by metric, with `*` where a system differs from the model by more than chance."""
    lines = [f"# {report['model']}", ""]
    for name, found in report["sets"].items():
        lines += [f"## {name} ({found['role']}, {found['queries']} queries)", ""]
        metrics = list(dict.fromkeys(metric for values in found["systems"].values() for metric in values))
        lines += ["| system | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 1) + "|"]
        for system, values in found["systems"].items():
            lines.append("| " + " | ".join([system, *(_cell(values.get(metric)) for metric in metrics)]) + " |")
        lines.append("")
    lines += [*_distances(report), ""]
    lines += ["`*`: the 95 % interval of the paired difference to the model (bootstrap over queries) leaves 0 out.", ""]
    if report.get("command"):
        lines += [f"Command: `{report['command']}`", ""]
    return "\n".join(lines)


def compare(a: Report, b: Report) -> str:
    """A Markdown table of B minus A on the sets and metrics that both have, each report's own model.

    Raises:
        InputError: If they have no set of the same queries in common.
    """
    lines = ["| set | metric | A | B | B - A | 95 % |", "|---|---|---|---|---|---|"]
    for name in a["sets"].keys() & b["sets"].keys():
        ours, theirs = a["sets"][name], b["sets"][name]
        if ours["content"] != theirs["content"]:
            continue
        first, second = ours["systems"][a["model"]], theirs["systems"][b["model"]]
        for metric in first.keys() & second.keys():
            if len(first[metric].get("values", ())) != len(second[metric].get("values", ())) or (
                "values" not in first[metric]  # a perplexity is compared by its nll
            ):
                continue
            gain = paired_bootstrap(second[metric]["values"], first[metric]["values"])
            mark = " *" if gain.significant else ""
            lines.append(
                f"| {name} | {metric} | {first[metric]['mean']:.3f} | {second[metric]['mean']:.3f} "
                f"| {gain.mean:+.3f}{mark} | {gain.low:+.3f} to {gain.high:+.3f} |"
            )
    if len(lines) == 2:
        raise InputError("The two reports have no set of the same queries in common, so there is nothing to compare.")
    return "\n".join([*lines[:2], *sorted(lines[2:])]) + "\n"


def write_picture(report: Report, path: Path, metric: str = "ndcg@10") -> None:
    """Bars of each system by role, and a radar of the roles."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    by_role = role_means(report, metric)
    roles = list(by_role)
    systems = list(dict.fromkeys(system for means in by_role.values() for system in means))
    figure = Figure(figsize=(12, 5), layout="constrained")
    FigureCanvasAgg(figure)
    bars = figure.add_subplot(1, 2, 1)
    width = 0.8 / max(1, len(systems))
    for number, system in enumerate(systems):
        heights = [by_role[role].get(system, 0.0) for role in roles]
        bars.bar(np.arange(len(roles)) + number * width, heights, width, label=system)
    bars.set_xticks(np.arange(len(roles)) + 0.4 - width / 2, roles)
    bars.set_ylabel(metric)
    figure.legend(loc="outside lower center", ncols=len(systems), fontsize="small")
    if len(roles) > 2:  # two points make no area
        radar: Any = figure.add_subplot(1, 2, 2, projection="polar")
        angles = [2 * math.pi * i / len(roles) for i in range(len(roles))]
        for system in systems:
            values = [by_role[role].get(system, 0.0) for role in roles]
            radar.plot([*angles, angles[0]], [*values, values[0]], label=system)
        radar.set_xticks(angles, roles)
    figure.savefig(path, dpi=120)


def role_means(report: Report, metric: str) -> dict[str, dict[str, float]]:
    """Mean over sets of a metric, by role and system."""
    found: dict[str, dict[str, list[float]]] = {}
    for of_set in report["sets"].values():
        for system, values in of_set["systems"].items():
            if metric in values:
                found.setdefault(of_set["role"], {}).setdefault(system, []).append(values[metric]["mean"])
    return {role: {s: float(np.mean(v)) for s, v in systems.items()} for role, systems in found.items()}


def summarise(values: Mapping[str, Mapping[str, Sequence[float]]], model: str) -> dict[str, dict[str, Any]]:
    """Mean of each system's metrics, its values, and the model's lead over it with its interval."""
    systems: dict[str, dict[str, Any]] = {}
    for system, metrics in values.items():
        systems[system] = {}
        for metric, by_query in metrics.items():
            if not len(by_query):
                continue
            entry: dict[str, Any] = {"mean": float(np.mean(by_query)), "values": list(by_query)}
            own = values[model].get(metric, ())
            if system != model and len(own) == len(by_query):
                lead = paired_bootstrap(own, by_query)
                entry["model_minus_this"] = [lead.mean, lead.low, lead.high]
                entry["significant"] = lead.significant
            systems[system][metric] = entry
            if metric.startswith("nll"):
                systems[system][metric.replace("nll", "perplexity")] = {
                    "mean": math.exp(min(700.0, entry["mean"])),
                    "significant": entry.get("significant", False),
                }
    return systems


def _distances(report: Report) -> list[str]:
    """How far the model is from the best of what it is compared with, by set."""
    lines = ["## Distance to the best baseline", "", "| set | metric | model | best baseline | model - it | 95 % |"]
    lines.append("|---" * 6 + "|")
    for name, found in report["sets"].items():
        own = found["systems"].get(report["model"], {})
        metric = next((metric for metric in _HEADLINES if metric in own), None)
        if metric is None:
            continue
        others = {
            system: values[metric]
            for system, values in found["systems"].items()
            if system not in (report["model"], "hybrid") and "model_minus_this" in values.get(metric, {})
        }
        if others:
            lower = metric.startswith("nll")
            best = (min if lower else max)(others, key=lambda system: others[system]["mean"])
            mean, low, high = others[best]["model_minus_this"]
            interval = f"{mean:+.3f} | {low:+.3f} to {high:+.3f}"
            lines.append(
                f"| {name} | {metric} | {own[metric]['mean']:.3f} | {best} {others[best]['mean']:.3f} | {interval} |"
            )
    return lines


def _cell(entry: Mapping[str, Any] | None) -> str:
    if entry is None:
        return ""
    return f"{entry['mean']:.3f}" + ("*" if entry.get("significant") else "")
