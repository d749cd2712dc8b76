"""How an embedder learns from a frozen language model: rewards, losses, and the training of one set of weights.

Importing this package loads neither torch nor transformers; they come with the first thing that needs them.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .batching import TaskBlockSampler
    from .lm import FrozenLM, LanguageModel, Prompt
    from .lm_server import ServerLM
    from .losses import anchor_loss, contrastive_loss, graded_distillation_loss, kl_distillation_loss
    from .mining import mine
    from .pacing import SelfPacedSchedule
    from .recipes import Recipe
    from .rewards import RewardHealth, RewardStore, label, reward_health
    from .rows import read_collection, read_rows, rows_from
    from .trainer import MultiTaskTrainer

_HOME = {
    "batching": ("TaskBlockSampler",),
    "lm": ("FrozenLM", "LanguageModel", "Prompt"),
    "lm_server": ("ServerLM",),
    "losses": ("anchor_loss", "contrastive_loss", "graded_distillation_loss", "kl_distillation_loss"),
    "mining": ("mine",),
    "pacing": ("SelfPacedSchedule",),
    "recipes": ("Recipe",),
    "rewards": ("RewardHealth", "RewardStore", "label", "reward_health"),
    "rows": ("read_collection", "read_rows", "rows_from"),
    "trainer": ("MultiTaskTrainer",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "FrozenLM",
    "LanguageModel",
    "MultiTaskTrainer",
    "Prompt",
    "Recipe",
    "RewardHealth",
    "RewardStore",
    "SelfPacedSchedule",
    "ServerLM",
    "TaskBlockSampler",
    "anchor_loss",
    "contrastive_loss",
    "graded_distillation_loss",
    "kl_distillation_loss",
    "label",
    "mine",
    "read_collection",
    "read_rows",
    "reward_health",
    "rows_from",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'quadrieve_train' has no attribute {name!r}")
    value = getattr(import_module(f".{_MODULE_OF[name]}", __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
