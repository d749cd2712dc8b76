"""What a model was trained from and on, over all its trainings, as its folder tells."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from quadrieve.checkpoint import RECIPE_FILE, TRAINING_FILE, Checkpoint

from .recipes import Recipe


@dataclass(frozen=True)
class Lineage:
    """Where weights come from.

    Attributes:
        backbone: The weights that the first training began with.
        sources: What any of the trainings read, below their data folders, each once.
    """

    backbone: str
    sources: tuple[str, ...] = ()

    @classmethod
    def of(cls, model: Checkpoint) -> Lineage:
        """Of a model; one that tells nothing is its own backbone."""
        told, recipe = told_of(model), model.folder / RECIPE_FILE
        lineage = cls(told.get("backbone", told.get("start", model.name)), tuple(told.get("sources", ())))
        return lineage.then(Recipe.load(recipe)) if recipe.is_file() else lineage

    def then(self, recipe: Recipe) -> Lineage:
        """After one more training."""
        read = [source for task in recipe.tasks.values() for source in task.sources]
        return self._with(read)

    def beside(self, other: Lineage) -> Lineage:
        """Held near another model or averaged with it, whose texts it so learns from too."""
        return self._with(other.sources)

    def _with(self, sources: Iterable[str]) -> Lineage:
        return Lineage(self.backbone, tuple(dict.fromkeys([*self.sources, *sources])))


def told_of(model: Checkpoint) -> dict[str, Any]:
    """What a model's folder tells of its last training; empty if nothing."""
    path = model.folder / TRAINING_FILE
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return told
