"""Celo in PyTorch: the same weights and steps as the JAX optimizers, as a `torch.optim.Optimizer`.

    optimizer = celo.torch.Celo(model.parameters(), num_steps=10_000)  # was: torch.optim.AdamW(…)
    optimizer.step(loss=loss)

It takes PyTorch, NumPy and weights files alone; JAX is not imported. Modules are named as their JAX
counterparts, which explain the mathematics.
"""

from celo.torch._celo import Celo, CeloRule
from celo.torch._celo_adam import CeloAdam

__all__ = ["Celo", "CeloAdam", "CeloRule"]
