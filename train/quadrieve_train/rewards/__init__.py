"""What a frozen language model makes of each candidate, and whether that says anything."""

from .health import RewardHealth, kendall_tau, reward_health
from .labelling import LabelOptions, answer_quality, label
from .reward import RewardKind, likelihood_reward, rank_of_first, rank_reward
from .store import RewardStore, Scored
from .templates import TEMPLATES, Template, template_for

__all__ = [
    "TEMPLATES",
    "LabelOptions",
    "RewardHealth",
    "RewardKind",
    "RewardStore",
    "Scored",
    "Template",
    "answer_quality",
    "kendall_tau",
    "label",
    "likelihood_reward",
    "rank_of_first",
    "rank_reward",
    "reward_health",
    "template_for",
]
