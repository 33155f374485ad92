"""Learned optimizers, one architecture a file, and their registry."""

from collections.abc import Callable

from celo.optimizers.base import LearnedOptimizer, as_optax
from celo.optimizers.celo import Celo, celo, scale_by_celo_rule, scale_by_celo_schedule
from celo.optimizers.update_rule import UpdateRule

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "celo": Celo,
    "celo_rule": UpdateRule,
}

__all__ = [
    "OPTIMIZERS",
    "Celo",
    "LearnedOptimizer",
    "UpdateRule",
    "as_optax",
    "celo",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
]
