"""celo: learned optimizers to use, to meta-train, and to measure.

    tx = celo.celo(num_steps=10_000)                          # was: optax.adamw(1e-3)
    updates, state = tx.update(grads, state, params, value=loss)

Here: every name that a training loop needs. `celo.tasks`, `celo.evaluate` and `celo.meta` hold the rest for
those who measure and meta-train, `celo.optimizers` and `celo.transforms` the parts for those who extend;
`celo.weights` and `celo.data` read files. Modules that begin with an underscore are private and may change.

All are imported when first used, so that a part of the package does not load a framework it does not need.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0.dev0"  # after 0.1.0

if TYPE_CHECKING:
    from celo._errors import CeloError, OutOfRangeWarning
    from celo._explain.explanation import explain
    from celo._explain.figure import draw_explanation
    from celo.optimizers import (
        LearnedOptimizer,
        adafac_mlp,
        as_optax,
        celo,
        celo2,
        celo2_base,
        celo_adam,
        celo_rule,
        cool_down,
        nn_adam,
        rnn_mlp,
        scale_by_celo2,
        scale_by_celo_rule,
        scale_by_celo_schedule,
        velo,
        with_horizon,
    )
    from celo.transforms import accumulate, guard_nonfinite, label_params, plan, state_sharding

_HOMES = {
    "CeloError": "celo._errors",
    "LearnedOptimizer": "celo.optimizers",
    "OutOfRangeWarning": "celo._errors",
    "accumulate": "celo.transforms",
    "adafac_mlp": "celo.optimizers",
    "as_optax": "celo.optimizers",
    "celo": "celo.optimizers",
    "celo2": "celo.optimizers",
    "celo2_base": "celo.optimizers",
    "celo_adam": "celo.optimizers",
    "celo_rule": "celo.optimizers",
    "cool_down": "celo.optimizers",
    "draw_explanation": "celo._explain.figure",
    "explain": "celo._explain.explanation",
    "guard_nonfinite": "celo.transforms",
    "label_params": "celo.transforms",
    "nn_adam": "celo.optimizers",
    "plan": "celo.transforms",
    "rnn_mlp": "celo.optimizers",
    "scale_by_celo2": "celo.optimizers",
    "scale_by_celo_rule": "celo.optimizers",
    "scale_by_celo_schedule": "celo.optimizers",
    "state_sharding": "celo.transforms",
    "velo": "celo.optimizers",
    "with_horizon": "celo.optimizers",
}
_FACES = ("convert", "data", "evaluate", "meta", "optimizers", "tasks", "torch", "transforms", "weights")

__all__ = [
    "CeloError",
    "LearnedOptimizer",
    "OutOfRangeWarning",
    "accumulate",
    "adafac_mlp",
    "as_optax",
    "celo",
    "celo2",
    "celo2_base",
    "celo_adam",
    "celo_rule",
    "cool_down",
    "draw_explanation",
    "explain",
    "guard_nonfinite",
    "label_params",
    "nn_adam",
    "plan",
    "rnn_mlp",
    "scale_by_celo2",
    "scale_by_celo_rule",
    "scale_by_celo_schedule",
    "state_sharding",
    "velo",
    "with_horizon",
]


def __getattr__(name: str) -> Any:
    if name in _FACES:
        return importlib.import_module(f"celo.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'celo' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted([*__all__, *_FACES])
