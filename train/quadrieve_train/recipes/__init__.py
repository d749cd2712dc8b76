"""What a training run does, and the recipes of the package: `paper`, `cpu`, and the two rounds of `release`."""

from .recipe import MiningRecipe, PaceRecipe, Recipe, RewardRecipe, TaskRecipe

__all__ = ["MiningRecipe", "PaceRecipe", "Recipe", "RewardRecipe", "TaskRecipe"]
