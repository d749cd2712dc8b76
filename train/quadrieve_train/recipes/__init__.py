"""What a training run does, and the recipes that come with the package: `paper`, `cpu` and the rounds of `release`."""

from .recipe import MiningRecipe, PaceRecipe, Recipe, RewardRecipe, TaskRecipe

__all__ = ["MiningRecipe", "PaceRecipe", "Recipe", "RewardRecipe", "TaskRecipe"]
