"""Learned optimizers, one architecture a file, their registry, and what fits them to a training loop."""

from collections.abc import Callable

from celo.optimizers.accumulate import accumulate
from celo.optimizers.base import LearnedOptimizer, as_optax
from celo.optimizers.celo import Celo, celo, celo_rule
from celo.optimizers.celo_adam import CeloAdam, celo_adam
from celo.optimizers.decayed import DecayedRule
from celo.optimizers.halves import scale_by_celo_rule, scale_by_celo_schedule
from celo.optimizers.horizon import cool_down, with_horizon
from celo.optimizers.nonfinite import guard_nonfinite
from celo.optimizers.partition import partition, plan
from celo.optimizers.sharding import state_sharding
from celo.optimizers.update_rule import UpdateRule

OPTIMIZERS: dict[str, Callable[..., LearnedOptimizer]] = {
    "celo": Celo,
    "celo_adam": CeloAdam,
    "celo_rule": UpdateRule,
    "celo_rule_decayed": DecayedRule,
}

__all__ = [
    "OPTIMIZERS",
    "Celo",
    "CeloAdam",
    "DecayedRule",
    "LearnedOptimizer",
    "UpdateRule",
    "accumulate",
    "as_optax",
    "celo",
    "celo_adam",
    "celo_rule",
    "cool_down",
    "guard_nonfinite",
    "partition",
    "plan",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "state_sharding",
    "with_horizon",
]
