"""Learned optimizers, one architecture a file, their registry, and what fits them to a training loop."""

from collections.abc import Callable

from celo.optimizers._base import LearnedOptimizer, as_optax
from celo.optimizers._celo import Celo, celo, celo_rule
from celo.optimizers._celo_adam import CeloAdam, celo_adam
from celo.optimizers._decayed import DecayedRule
from celo.optimizers._halves import scale_by_celo_rule, scale_by_celo_schedule
from celo.optimizers._horizon import cool_down, with_horizon
from celo.optimizers._update_rule import UpdateRule
from celo.transforms._accumulate import accumulate
from celo.transforms._nonfinite import guard_nonfinite
from celo.transforms._param_labels import partition, plan
from celo.transforms._sharding import state_sharding

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
