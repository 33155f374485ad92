"""celo: learned optimizers to use, to meta-train, and to measure.

    tx = celo.celo(num_steps=10_000)                          # was: optax.adamw(1e-3)
    updates, state = tx.update(grads, state, params, value=loss)

The names below are imported when first used, so that a part of the package does not load a framework it
does not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from celo.errors import CeloError
    from celo.optimizers import (
        LearnedOptimizer,
        accumulate,
        as_optax,
        celo,
        celo_rule,
        cool_down,
        guard_nonfinite,
        partition,
        plan,
        scale_by_celo_rule,
        scale_by_celo_schedule,
        with_horizon,
    )

__all__ = [
    "CeloError",
    "LearnedOptimizer",
    "accumulate",
    "as_optax",
    "celo",
    "celo_rule",
    "cool_down",
    "guard_nonfinite",
    "partition",
    "plan",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "with_horizon",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'celo' has no attribute {name!r}")
    home = "celo.errors" if name == "CeloError" else "celo.optimizers"
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
