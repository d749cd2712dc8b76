"""What a language model makes of what was found: answers, replies, labels, calls."""

from __future__ import annotations

import random
import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from quadrieve import Role

from ..lm import LanguageModel, Prompt
from ..rewards import RewardStore, Scored, rank_of_first
from ..rows import Query, content_hash
from .sets import EvalSet

#: How many texts stand in the prompt, by role.
SHOWN = {Role.KNOWLEDGE: (3,), Role.MEMORY: (1, 5), Role.EXAMPLE: (8,), Role.TOOL: (5,)}
_GROUP = 16
_WORDS = 48  # a desired output is cut to so many words, a shown text to 120
_TEXT_WORDS = 120


@dataclass(frozen=True)
class Reader:
    """A frozen language model with its scores kept by content.

    Attributes:
        lm: The model.
        store: Where scores and answers are kept.
        new_tokens: Longest answer that is written.
        nll_of_written: Whether the likelihood of the desired output is asked for too where the model writes one of its
            own; it takes about as long as writing.
    """

    lm: LanguageModel
    store: RewardStore
    new_tokens: int = 16
    nll_of_written: bool = True

    def score(self, task: str, prompts: Sequence[Prompt], outputs: Sequence[Sequence[str]]) -> list[tuple[float, ...]]:
        """Mean log-likelihood per token of the outputs behind each prompt."""
        wanted = [
            Scored(self.lm.revision, task, prompt.after, prompt.candidate, prompt.text, tuple(some))
            for prompt, some in zip(prompts, outputs, strict=True)
        ]
        known = self.store.get([scored.key for scored in wanted])
        missing = {s.key: (s, p) for s, p in zip(wanted, prompts, strict=True) if s.key not in known}
        entries = list(missing.values())
        for start in range(0, len(entries), _GROUP):
            part = entries[start : start + _GROUP]
            found = self.lm.score_many([(prompt, scored.outputs) for scored, prompt in part])
            done = [
                Scored(s.lm, s.task, s.query, s.candidate, s.prompt, s.outputs, tuple(values))
                for (s, _), values in zip(part, found, strict=True)
            ]
            self.store.put(done)
            known |= {scored.key: scored.scores for scored in done}
        return [known[scored.key] for scored in wanted]

    def answer(self, prompt: Prompt) -> str:
        """What the model writes behind the prompt, taking the most likely token each time."""
        key = content_hash(self.lm.revision, prompt.text, "answer", self.new_tokens)
        kept = self.store.samples(key)
        if kept is None:
            drawn = self.lm.sample(prompt, 1, 13, temperature=0.0, max_new_tokens=self.new_tokens)
            kept = self.store.put_samples(key, drawn)
        return kept[0]

    def read(self, evaluated: EvalSet, rankings: Sequence[Sequence[str]] | None, shown: int) -> dict[str, list[float]]:
        """Metrics of each query that has an answer, with the first `shown` texts of its ranking in the prompt.

        Args:
            evaluated: The set.
            rankings: For each query; None shows nothing.
            shown: How many texts.

        Returns:
            By name: `nll` (per token of the desired output), and by role and kind of answer `accuracy` (of the
            closed set's likeliest), `em`, `f1` and `contains`, `em` and `rouge_l`, or `call_rank` (1 is best).
            Queries that a metric does not fit are left out of it.
        """
        text_of = dict(zip(evaluated.collection.ids, evaluated.collection.texts, strict=True))
        asked = [(i, query) for i, query in enumerate(evaluated.queries) if query.answers and query.answers[0].strip()]
        prompts, outputs = [], []
        for i, query in asked:
            texts = [_cut(text_of[identity], _TEXT_WORDS) for identity in rankings[i][:shown]] if rankings else []
            prompts.append(self.lm.chat(prompt_for(evaluated.role, query, texts)))
            outputs.append([output.strip() for output in self._outputs(evaluated, query)])
        writes = evaluated.role in (Role.KNOWLEDGE, Role.EXAMPLE)
        scored = [j for j, some in enumerate(outputs) if self.nll_of_written or len(some) > 1 or not writes]
        scores = self.score(evaluated.task, [prompts[j] for j in scored], [outputs[j] for j in scored])
        of_query = dict(zip(scored, scores, strict=True))
        metrics: dict[str, list[float]] = {"nll": [-own[0] for own in scores]} if scores else {}
        for j, ((_, query), prompt) in enumerate(zip(asked, prompts, strict=True)):
            own = of_query.get(j, ())
            if len(own) > 1 and evaluated.role is Role.TOOL:
                metrics.setdefault("call_rank", []).append(rank_of_first(own))
            elif len(own) > 1:
                metrics.setdefault("accuracy", []).append(float(own[0] > max(own[1:])))
            elif evaluated.role is Role.KNOWLEDGE:
                said = self.answer(prompt)
                metrics.setdefault("em", []).append(exact_match(said, query.answers))
                metrics.setdefault("f1", []).append(token_f1(said, query.answers))
                metrics.setdefault("contains", []).append(contains(said, query.answers))
            elif evaluated.role is Role.EXAMPLE:
                said = self.answer(prompt)
                metrics.setdefault("em", []).append(exact_match(said, query.answers))
                metrics.setdefault("rouge_l", []).append(rouge_l(said, query.answers))
        return metrics

    def _outputs(self, evaluated: EvalSet, query: Query) -> list[str]:
        """The desired output, then what it competes with."""
        desired = _cut(query.answers[0], _WORDS)
        if evaluated.role is Role.TOOL:
            desired, others = _calls(evaluated, query)
            return [desired, *others]
        if query.choices:
            taken = {answer.lower() for answer in query.answers}
            return [desired, *(choice for choice in dict.fromkeys(query.choices) if choice.lower() not in taken)]
        return [desired]


def prompt_for(role: Role, query: Query, texts: Sequence[str]) -> Prompt:
    r"""The prompt of a role (arXiv 2310.07554, appendix A); examples stand nearest last.

    Example:
        >>> from quadrieve_train.rows import Query
        >>> query = Query("q", "2 + 2", ("4",), (), "test", (), None, None)
        >>> prompt_for(Role.EXAMPLE, query, ["near", "far"]).text
        'far\nnear\n2 + 2\n'
    """
    context = str(query.meta.get("context") or "")
    if role is Role.KNOWLEDGE:
        before = "Knowledge:\n" if texts else ""
        asked = str(query.meta.get("prompt") or f"{context}Q: {query.text} A:")
        return Prompt(before, "\n".join(texts), ("\n\n" if texts else "") + asked)
    if role is Role.MEMORY:
        return Prompt("", "\n".join(texts), ("\n" if texts else "") + f"{context}Speaker 1: {query.text}\nSpeaker 2:")
    if role is Role.EXAMPLE:
        return Prompt("", "\n".join(reversed(texts)), ("\n" if texts else "") + f"{query.text}\n")
    tools = "\n".join(f"Tool: {text}" for text in texts)
    return Prompt("", tools, ("\n\n" if texts else "") + f"Request: {query.text}\nCall:")


def exact_match(said: str, desired: Sequence[str]) -> float:
    """Whether an answer is one of the desired ones, without case, punctuation and articles (SQuAD).

    Example:
        >>> exact_match("The Eiffel Tower.", ["Eiffel tower"])
        1.0
    """
    return float(any(_squad(said) == _squad(answer) for answer in desired))


def token_f1(said: str, desired: Sequence[str]) -> float:
    """F1 of an answer's words against the best fitting desired one (SQuAD).

    Example:
        >>> token_f1("in Paris", ["Paris"])
        0.6666666666666666
    """
    return max(_f1(_squad(said), _squad(answer)) for answer in desired)


def contains(said: str, desired: Sequence[str]) -> float:
    """Whether a desired answer stands in what was said, whatever the case: PopQA's accuracy.

    Example:
        >>> contains("It is Paris.", ["paris", "Lutetia"])
        1.0
    """
    return float(any(answer.lower() in said.lower() for answer in desired))


def rouge_l(said: str, desired: Sequence[str]) -> float:
    """F of the longest common subsequence of words, against the best fitting desired output (Lin, 2004).

    Example:
        >>> rouge_l("a b c", ["a c"])
        0.8
    """
    return max(_rouge(said, answer) for answer in desired)


def _rouge(said: str, desired: str) -> float:
    a, b = (re.findall(r"[a-z0-9]+", text.lower()) for text in (said, desired))
    lengths = [0] * (len(b) + 1)
    for word in a:
        previous = 0
        for j, other in enumerate(b, start=1):
            kept = lengths[j]
            lengths[j] = previous + 1 if word == other else max(lengths[j], lengths[j - 1])
            previous = kept
    common = lengths[-1]
    return 2 * common / (len(a) + len(b)) if common else 0.0


def _squad(text: str) -> list[str]:
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return [word for word in plain.split() if word not in ("a", "an", "the")]


def _f1(said: Sequence[str], desired: Sequence[str]) -> float:
    if not said or not desired:
        return float(said == desired)
    common = sum((Counter(said) & Counter(desired)).values())
    return 2 * common / (len(said) + len(desired))


def _calls(evaluated: EvalSet, query: Query) -> tuple[str, list[str]]:
    """The right tools' names, and as many wrong ones, nine times."""
    collection = evaluated.collection
    title = {identity: name or identity for identity, name in zip(collection.ids, collection.titles, strict=True)}
    right = [title[identity] for identity in query.positives]
    if not right:
        return query.answers[0], []
    wrong = sorted(set(title.values()) - set(right))
    draw = random.Random(f"calls {query.id}")  # noqa: S311 - a seeded draw
    size = min(len(right), len(wrong))
    return ", ".join(right), [", ".join(draw.sample(wrong, size)) for _ in range(9)] if size else []


def _cut(text: str, words: int) -> str:
    found = list(re.finditer(r"\S+", text))
    return text[: found[words - 1].end()] if len(found) > words else text
