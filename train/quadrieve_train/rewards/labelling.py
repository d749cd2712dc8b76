"""From rows with candidates to rows with rewards: the language model scores what each candidate does to the output."""

from __future__ import annotations

import os
import random
import re
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from quadrieve.errors import InputError

from ..lm import LanguageModel, Prompt
from ..rows import Row, as_row, content_hash, from_rows
from .reward import RewardKind, likelihood_reward, rank_reward
from .store import RewardStore, Scored
from .templates import Template, template_for

if TYPE_CHECKING:
    from datasets import Dataset

_GROUP = 16  # rows whose prompts are scored together, so that batches are full and little is lost by a kill


@dataclass(frozen=True, slots=True)
class LabelOptions:
    """How rewards are made.

    Attributes:
        kind: `rank` (the method's) or `likelihood` (its ablation).
        outputs: Other outputs that the desired one is ranked among.
        seed: Of the sampled outputs.
        temperature: Of the sampled outputs.
        top_p: Of the sampled outputs.
        max_new_tokens: Longest sampled output; a desired output is cut at twice as many words.
        chat: Put prompts into the model's chat template where it has one.
        quality: Also let the model answer with each candidate and rate the answer against the desired one.
        templates: Templates by task, in place of the built-in ones.
    """

    kind: RewardKind = "rank"
    outputs: int = 10
    seed: int = 13
    temperature: float = 1.0
    top_p: float = 0.95
    max_new_tokens: int = 32
    chat: bool = True
    quality: bool = False
    templates: Mapping[str, Template] | None = None

    def __post_init__(self) -> None:
        if self.kind not in ("rank", "likelihood"):
            raise InputError(f"Unknown reward {self.kind!r}; expected 'rank' or 'likelihood'.")
        if self.outputs < 1:
            raise InputError(f"outputs must be at least 1, got {self.outputs}.")


def label(
    rows: Iterable[Row] | Any,
    lm: LanguageModel,
    store: RewardStore | str | os.PathLike[str],
    options: LabelOptions | None = None,
    *,
    progress: bool = False,
) -> Dataset:
    """Rows with the rewards of their candidates, as `lm` gives them.

    Scores are kept in the store as they come, so a run that was stopped goes on where it was, and several processes
    given the same rows share the work: each returns all rows when all are done.

    Args:
        rows: A dataset of rows, or rows.
        lm: The frozen language model.
        store: The reward store or its folder.
        options: How rewards are made.
        progress: Show a progress bar on stderr.

    Raises:
        InputError: If a row has no answer, or the model cannot score it; the message names the row.
    """
    chosen = options or LabelOptions()
    every = [row if isinstance(row, Row) else as_row(row) for row in rows]
    for number, row in enumerate(every):
        if not row.answers or not row.answers[0].strip():
            raise InputError(
                f"Row {row.query_id or number} of task {row.task!r} has no answer, and the {chosen.kind} reward needs "
                "the desired output; give 'answers' or leave such rows out."
            )
    if isinstance(store, RewardStore):
        return _label(every, lm, store, chosen, progress)
    with RewardStore(store) as opened:
        return _label(every, lm, opened, chosen, progress)


def answer_quality(answer: str, desired: Sequence[str]) -> float:
    """F1 of an answer's words against the best fitting desired output, 0 to 1.

    Example:
        >>> answer_quality("It is Paris.", ["Paris", "the city of Paris"])
        0.5
    """
    return max((_f1(_words(answer), _words(text)) for text in desired), default=0.0)


def _label(rows: list[Row], lm: LanguageModel, store: RewardStore, options: LabelOptions, progress: bool) -> Dataset:
    labelled: dict[int, Row] = {}
    waiting = [list(range(start, min(start + _GROUP, len(rows)))) for start in range(0, len(rows), _GROUP)]
    # Each process begins elsewhere, so that they seldom meet.
    random.Random(os.getpid()).shuffle(waiting)  # noqa: S311 - the order of work does not change its result
    with tqdm(total=len(rows), unit="row", desc="Labelling", disable=not progress) as bar:
        while waiting:
            left = []
            for group in waiting:
                members = [rows[i] for i in group]
                key = content_hash(lm.revision, options.kind, options.seed, [_identity(row) for row in members])
                if not store.claim(key):
                    left.append(group)
                    continue
                try:
                    labelled |= dict(zip(group, _label_group(members, lm, store, options), strict=True))
                finally:
                    store.release(key)
                bar.update(len(group))
            if len(left) == len(waiting):
                time.sleep(0.2)
            waiting = left
    return from_rows(labelled[i] for i in range(len(rows)))


def _label_group(rows: Sequence[Row], lm: LanguageModel, store: RewardStore, options: LabelOptions) -> Iterator[Row]:
    requests = [_requests(row, lm, store, options) for row in rows]
    scores = _score([scored for group in requests for scored, _ in group], requests, lm, store)
    for row, group in zip(rows, requests, strict=True):
        without, *each = [scores[scored.key] for scored, _ in group]
        if options.kind == "rank":
            rewards = tuple(rank_reward(without, with_candidate) for with_candidate in each)
        else:
            rewards = tuple(likelihood_reward(with_candidate) for with_candidate in each)
        qualities = tuple(_quality(row, prompt, lm, store, options) for _, prompt in group[1:])
        yield replace(
            row,
            rewards=rewards,
            rewarded_by=f"{lm.revision} {options.kind}",
            qualities=qualities if options.quality else row.qualities,
        )


def _requests(row: Row, lm: LanguageModel, store: RewardStore, options: LabelOptions) -> list[tuple[Scored, Prompt]]:
    """What is scored for a row: the outputs without a candidate, then with each."""
    template = template_for(row.task, options.templates)
    wrap = lm.chat if options.chat else lambda prompt: prompt
    bare = wrap(template.fill(row.query, None, row.context))
    desired = _shortened(row.answers[0], 2 * options.max_new_tokens)
    others = _others(row, desired, bare, lm, store, options) if options.kind == "rank" else []
    outputs = tuple(template.follow(output) for output in (desired, *others))
    if bare.opened:  # behind a chat template's header an output begins without the space
        outputs = tuple(output.lstrip() for output in outputs)
    prompts: list[tuple[str | None, Prompt]] = [(None, bare)]
    prompts += [(text, wrap(template.fill(row.query, text, row.context))) for text in row.candidates]
    return [
        (Scored(lm.revision, row.task, row.query, candidate, prompt.text, outputs), prompt)
        for candidate, prompt in prompts
    ]


def _score(
    wanted: Sequence[Scored],
    requests: Sequence[Sequence[tuple[Scored, Prompt]]],
    lm: LanguageModel,
    store: RewardStore,
) -> dict[str, tuple[float, ...]]:
    known = store.get([scored.key for scored in wanted])
    missing = {scored.key: (scored, prompt) for group in requests for scored, prompt in group}
    missing = {key: pair for key, pair in missing.items() if key not in known}
    if missing:
        pairs = list(missing.values())
        found = lm.score_many([(prompt, scored.outputs) for scored, prompt in pairs])
        new = [replace(scored, scores=tuple(values)) for (scored, _), values in zip(pairs, found, strict=True)]
        store.put(new)
        known |= {scored.key: scored.scores for scored in new}
    return known


def _others(
    row: Row, desired: str, bare: Prompt, lm: LanguageModel, store: RewardStore, options: LabelOptions
) -> list[str]:
    """The outputs that the desired one is ranked among: from the closed set, or sampled without a candidate."""
    answers = {_normal(answer) for answer in (desired, *row.answers)}
    if row.choices:
        closed = [choice for choice in dict.fromkeys(row.choices) if _normal(choice) not in answers]
        draw = random.Random(f"{options.seed} {row.query}")  # noqa: S311 - a seeded draw
        return draw.sample(closed, min(options.outputs, len(closed)))
    settings = [options.outputs, options.seed, options.temperature, options.top_p, options.max_new_tokens]
    key = content_hash(lm.revision, bare.text, sorted(answers), settings)
    kept = store.samples(key)
    if kept is not None:
        return kept
    found: list[str] = []
    for draw_number in range(4):  # samples equal to an answer are redrawn, a few times
        drawn = lm.sample(
            bare,
            options.outputs,
            int(content_hash(options.seed, bare.text, draw_number)[:8], 16),
            temperature=options.temperature,
            top_p=options.top_p,
            max_new_tokens=options.max_new_tokens,
        )
        found += [text for text in drawn if _normal(text) and _normal(text) not in answers]
        if len(found) >= options.outputs:
            break
    return store.put_samples(key, found[: options.outputs])


def _quality(row: Row, prompt: Prompt, lm: LanguageModel, store: RewardStore, options: LabelOptions) -> float:
    if not options.quality:
        return 0.0
    key = content_hash(lm.revision, prompt.text, "answer", options.max_new_tokens)
    kept = store.samples(key)
    if kept is None:
        drawn = lm.sample(prompt, 1, options.seed, temperature=0.0, max_new_tokens=options.max_new_tokens)
        kept = store.put_samples(key, drawn)
    return answer_quality(kept[0], row.answers)


def _identity(row: Row) -> list[Any]:
    return [row.task, row.query, row.context, row.candidates, row.answers]


def _shortened(text: str, words: int) -> str:
    found = list(re.finditer(r"\S+", text))
    return text[: found[words - 1].end()] if len(found) > words else text


def _normal(text: str) -> str:
    return " ".join(_words(text))


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def _f1(answer: Sequence[str], desired: Sequence[str]) -> float:
    if not answer or not desired:
        return 0.0
    common = sum((Counter(answer) & Counter(desired)).values())
    return 2 * common / (len(answer) + len(desired))
