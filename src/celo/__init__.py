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
    from celo._errors import CeloError, OutOfRangeWarning
    from celo._explain.explanation import explain
    from celo._explain.figure import draw_explanation
    from celo.optimizers import (
        LearnedOptimizer,
        accumulate,
        as_optax,
        celo,
        celo_adam,
        celo_rule,
        cool_down,
        guard_nonfinite,
        partition,
        plan,
        scale_by_celo_rule,
        scale_by_celo_schedule,
        state_sharding,
        with_horizon,
    )

__all__ = [
    "CeloError",
    "LearnedOptimizer",
    "OutOfRangeWarning",
    "accumulate",
    "as_optax",
    "celo",
    "celo_adam",
    "celo_rule",
    "cool_down",
    "draw_explanation",
    "explain",
    "guard_nonfinite",
    "partition",
    "plan",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "state_sharding",
    "with_horizon",
]

_HOMES = {  # of the names that are not optimizers
    "CeloError": "celo._errors",
    "OutOfRangeWarning": "celo._errors",
    "explain": "celo._explain.explanation",
    "draw_explanation": "celo._explain.figure",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'celo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES.get(name, "celo.optimizers")), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
