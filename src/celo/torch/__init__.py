"""Celo in PyTorch: the same weights and steps as the JAX optimizers, as a `torch.optim.Optimizer`.

    optimizer = celo.torch.Celo(model.parameters(), num_steps=10_000)  # was: torch.optim.AdamW(…)
    optimizer.step(loss=loss)

It takes PyTorch, NumPy and weights files; JAX is imported only by `load_jax_state` and `as_jax_state`, which
carry a run from one to the other. `attach`, `register_timm` and `AxolotlPlugin` serve trainers; those of
Lightning and Accelerate need nothing. Modules are named as their JAX counterparts, which explain the
mathematics.
"""

from typing import Any

from celo.torch._celo import Celo, CeloRule
from celo.torch._celo2 import Celo2, Celo2Base
from celo.torch._celo_adam import CeloAdam
from celo.torch._groups import celo2_param_groups, param_groups, plan
from celo.torch._jax_state import as_jax_state, load_jax_state
from celo.torch._trainers import attach, axolotl_plugin, register_timm
from celo.torch._velo import VeLO

__all__ = [
    "Celo",
    "Celo2",
    "Celo2Base",
    "CeloAdam",
    "CeloRule",
    "VeLO",
    "as_jax_state",
    "attach",
    "celo2_param_groups",
    "load_jax_state",
    "param_groups",
    "plan",
    "register_timm",
]


def __getattr__(name: str) -> Any:
    if name == "AxolotlPlugin":  # a subclass of axolotl's, which is imported for it alone
        return axolotl_plugin()
    raise AttributeError(f"module 'celo.torch' has no attribute {name!r}")
