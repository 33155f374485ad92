"""Learned optimizers, one architecture a file, and their registry.

Here: the contract of a learned optimizer, Celo and its relatives, their weights bound to optax. Wrappers for
any optax transformation live in `celo.transforms`, what one tensor's step computes in `celo._kernels`. Use
the names below; the transformations that users apply (`celo.celo`, …) are in `celo` itself.
"""

from celo.optimizers._base import LearnedOptimizer, as_optax
from celo.optimizers._celo import Celo, celo
from celo.optimizers._celo2 import Celo2, celo2, celo2_base, scale_by_celo2
from celo.optimizers._celo_adam import CeloAdam, celo_adam
from celo.optimizers._decayed_rule import DecayedRule
from celo.optimizers._horizon import cool_down, with_horizon
from celo.optimizers._registry import OPTIMIZERS, Entry, TrainingPhase
from celo.optimizers._schedule import scale_by_celo_schedule
from celo.optimizers._update_rule import UpdateRule, celo_rule, scale_by_celo_rule

__all__ = [
    "OPTIMIZERS",
    "Celo",
    "Celo2",
    "CeloAdam",
    "DecayedRule",
    "Entry",
    "LearnedOptimizer",
    "TrainingPhase",
    "UpdateRule",
    "as_optax",
    "celo",
    "celo2",
    "celo2_base",
    "celo_adam",
    "celo_rule",
    "cool_down",
    "scale_by_celo2",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "with_horizon",
]
