"""What a training run does, and the recipes that come with the package: `paper`, `cpu`, `release`, `release-hard`."""

from .recipe import MiningRecipe, PaceRecipe, Recipe, RewardRecipe, TaskRecipe

__all__ = ["MiningRecipe", "PaceRecipe", "Recipe", "RewardRecipe", "TaskRecipe"]
