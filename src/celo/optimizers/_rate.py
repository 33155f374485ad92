"""The last links of a chain: what turns a learned step, which points downhill, into the update."""

from typing import Any

import optax

from celo._types import Array


def rate_and_decay(
    learning_rate: optax.ScalarOrSchedule, weight_decay: float | Array, mask: Any
) -> list[optax.GradientTransformation]:
    """The learning rate, and decoupled decay if there is any."""
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        return [optax.scale_by_learning_rate(learning_rate, flip_sign=False)]
    return [  # decay points uphill, as gradients do, until the learning rate turns both around
        optax.scale(-1.0),
        optax.add_decayed_weights(weight_decay, mask),
        optax.scale_by_learning_rate(learning_rate),
    ]
