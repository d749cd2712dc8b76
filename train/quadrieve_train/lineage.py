"""What a model was trained from and on, over all its trainings, as its `training.json` tells."""

from __future__ import annotations

import json
from dataclasses import dataclass

from quadrieve.checkpoint import Checkpoint

from .recipes import Recipe

#: Beside the weights, with figures and numbers of rows.
TRAINING_FILE = "training.json"


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
        file = model.folder / TRAINING_FILE
        if not file.is_file():
            return cls(model.name)
        told = json.loads(file.read_text(encoding="utf-8"))
        return cls(told.get("backbone", told["start"]), tuple(told.get("sources", ())))

    def then(self, recipe: Recipe) -> Lineage:
        """After one more training."""
        read = [source for task in recipe.tasks.values() for source in task.sources]
        return Lineage(self.backbone, tuple(dict.fromkeys([*self.sources, *read])))
