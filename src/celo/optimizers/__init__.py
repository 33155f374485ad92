"""Learned optimizers, one architecture a file, and their registry.

Here: the contract of a learned optimizer, Celo and others, their weights bound to optax. Wrappers for
any optax transformation live in `celo.transforms`, what one tensor's step computes in `celo._kernels`. Use
the names below; the transformations that users apply (`celo.celo`, …) are in `celo` itself.
"""

from celo.optimizers._adafac_mlp import AdafacMLP, adafac_mlp
from celo.optimizers._base import LearnedOptimizer, as_optax
from celo.optimizers._celo import Celo, celo
from celo.optimizers._celo2 import Celo2, celo2, celo2_base, scale_by_celo2
from celo.optimizers._celo_adam import CeloAdam, celo_adam
from celo.optimizers._decayed_rule import DecayedRule
from celo.optimizers._horizon import cool_down, with_horizon
from celo.optimizers._nn_adam import NNAdam, nn_adam
from celo.optimizers._registry import OPTIMIZERS, Entry, TrainingPhase
from celo.optimizers._rnn_mlp import RNNMLP, rnn_mlp
from celo.optimizers._schedule import scale_by_celo_schedule
from celo.optimizers._update_rule import UpdateRule, celo_rule, scale_by_celo_rule
from celo.optimizers._velo import Velo, velo

__all__ = [
    "OPTIMIZERS",
    "RNNMLP",
    "AdafacMLP",
    "Celo",
    "Celo2",
    "CeloAdam",
    "DecayedRule",
    "Entry",
    "LearnedOptimizer",
    "NNAdam",
    "TrainingPhase",
    "UpdateRule",
    "Velo",
    "adafac_mlp",
    "as_optax",
    "celo",
    "celo2",
    "celo2_base",
    "celo_adam",
    "celo_rule",
    "cool_down",
    "nn_adam",
    "rnn_mlp",
    "scale_by_celo2",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "velo",
    "with_horizon",
]
