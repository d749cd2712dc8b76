"""What a training run does, and the two recipes that come with the package: `paper` and `cpu`."""

from .recipe import MiningRecipe, PaceRecipe, Recipe, RewardRecipe, TaskRecipe

__all__ = ["MiningRecipe", "PaceRecipe", "Recipe", "RewardRecipe", "TaskRecipe"]
