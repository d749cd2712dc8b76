"""How two rankings become one, and how a ranking becomes diverse."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..embedder import Vectors, ViewLike
from ..roles import Role

Scores = NDArray[np.float64]


_NEAREST = 10  # how many of the nearest tell how sure meaning is
_SPREAD = 0.2  # lying further apart, in cosines, makes no difference any more
_CLOSEST = 0.02  # and lying closer


@dataclass(frozen=True)
class Fusion:
    """How much words tell beside meaning, in cosines. The defaults are fitted on dev queries.

    Attributes:
        rate: What one unit of BM25 is worth where the ten nearest lie a fifth apart or further; more where they lie
            closer, and meaning hardly tells them apart.
        most: How much of all the query's words a record can be given, so that more of the same word adds no more.
        lead: What it is worth to be the only record with all words of a query: an exact name should win.
        named: What it is worth to hold a name that is the whole query and that hardly any other record holds; one
            that is half of it is worth an eighth of that.
        agreed: How much of their rate words lose where what they find best is what meaning finds nearest, in [0, 1]:
            they tell little then that meaning has not told.

    Example:
        >>> Fusion().scores(np.array([0.5, 0.4]), np.array([0.0, 9.0]), np.zeros(2), whole=10.0, cut=False).argmax()
        np.int64(1)
    """

    rate: float = 0.013
    most: float = 0.7
    lead: float = 0.15
    named: float = 6.0
    agreed: float = 0.0

    def scores(self, cosines: Scores, bm25: Scores, named: Scores, *, whole: float, cut: bool) -> Scores:
        """One score from the two that each candidate of two rankings has.

        The cosine, plus a rate for every unit of BM25 above the last of the lexical ranking, plus a reward for the
        best lexical hit by how far it leads the second, plus one for holding the query's names. BM25 is a sum of
        log-odds over the query's words, so its size says how much the words tell, and how far the nearest lie apart
        says how much meaning tells. Reciprocal ranks, and scores stretched to the range of their list, throw that
        away and give a ranking without evidence the same say as a clear hit. Where rankings agree, words may count
        less (`agreed`).

        Args:
            cosines: Cosine of every candidate, `[n]`.
            bm25: BM25 of every candidate, `[n]`; 0 where it is not in the lexical ranking.
            named: Share of the query that the names are which every candidate holds alone, `[n]`.
            whole: BM25 of a record of average length with every word of the query once.
            cut: Whether the lexical ranking was cut off, so that its last score bounds all that it left out.

        Returns:
            Scores `[n]`, higher is better; with no lexical hit and no name, the cosines.
        """
        fused = cosines + self.named * named**3
        rate = self.rate
        if self.agreed:
            rate *= 1 - self.agreed * _agreement(cosines, bm25)
        bm25 = np.minimum(bm25, self.most * whole)
        hits = bm25[bm25 > 0]
        if len(hits) == 0:
            return fused
        nearest = np.sort(cosines)[-_NEAREST:]
        spread = np.clip(nearest[-1] - nearest[0], _CLOSEST, _SPREAD)
        floor = float(hits.min()) if cut else 0.0
        fused += rate * (_SPREAD / spread) * np.maximum(bm25 - floor, 0.0)
        best = int(bm25.argmax())
        second = float(np.delete(bm25, best).max(initial=0.0))
        fused[best] += self.lead * min(1.0, (float(bm25[best]) - second) / max(whole, 1e-9))
        return fused


def _agreement(cosines: Scores, bm25: Scores) -> float:
    """Share of the ten nearest that are among the ten best by words, beyond what chance would bring; in [0, 1]."""
    first = min(_NEAREST, len(cosines) // 2)
    if first == 0:
        return 0.0
    nearest, best = (np.argsort(-scores, kind="stable")[:first] for scores in (cosines, bm25))
    share = len(np.intersect1d(nearest, best[bm25[best] > 0])) / first
    chance = first / len(cosines)
    return max(0.0, (share - chance) / (1 - chance))


def fusion_of(role: Role, view: ViewLike) -> Fusion:
    """What suits a role under a view: the rate that its model was given, else one for the role.

    What was said is found by its words where questions are asked of it, and hardly by them where a message looks for
    what it replies to. Agreement tells the two apart, so memory goes by it.

    Example:
        >>> from quadrieve import Embedder
        >>> view = Embedder.load("minilm").view("icl")  # says nothing, and solved examples are alike in kind, not words
        >>> fusion_of(Role.EXAMPLE, view).rate < fusion_of(Role.KNOWLEDGE, view).rate
        True
    """
    rate: float | None = getattr(view, "word_rate", None)  # views of others, an API client's say, have none
    if rate is None:
        rate = {Role.EXAMPLE: 0.004, Role.MEMORY: 0.028}.get(role, Fusion.rate)
    return Fusion(rate=rate, agreed=1.0 if role is Role.MEMORY else 0.0)


def diversify(relevance: Scores, vectors: Vectors, k: int, diversity: float) -> list[int]:
    """Choose k of n by maximal marginal relevance (Carbonell and Goldstein, SIGIR 1998).

    Args:
        relevance: How good each is on its own, `[n]`.
        vectors: Unit rows, `[n, dim]`.
        k: How many to choose at most.
        diversity: 0 keeps the order of relevance, 1 looks only at how little the next is like those chosen.

    Returns:
        Positions, in the order of choice.

    Example:
        >>> diversify(np.array([0.9, 0.8, 0.5]), np.array([[1, 0], [1, 0], [0, 1]], dtype=np.float32), 2, 0.5)
        [0, 2]
    """
    chosen: list[int] = []
    likeness = np.full(len(relevance), -np.inf)
    while len(chosen) < min(k, len(relevance)):
        marginal = (1 - diversity) * relevance - diversity * np.where(np.isfinite(likeness), likeness, 0.0)
        marginal[chosen] = -np.inf
        chosen.append(int(np.argmax(marginal)))
        likeness = np.maximum(likeness, vectors @ vectors[chosen[-1]])
    return chosen
