"""Adam's moments, which optimizers that have Adam's direction for some tensors or for all turn into steps."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from celo._arguments import check_gradients, check_parameters, check_shapes
from celo._kernels.statistics import ema, finite_gradient
from celo._layout import placed_with, zeros_beside
from celo._types import Array, Params, Updates


class AdamState(NamedTuple):
    """Adam's moments, float32 and not bias-corrected."""

    step: Array  # int32, steps taken
    first: Params
    second: Params

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


def init_moments(params: Params) -> AdamState:
    """Zero moments of parameters of any floating dtype."""
    check_parameters(params)
    first, second = (jax.tree.map(lambda p: zeros_beside(p, jnp.shape(p)), params) for _ in range(2))
    return placed_with(params, AdamState(jnp.zeros((), jnp.int32), first, second))


def update_moments(
    state: AdamState,
    grads: Updates,
    params: Params,
    decays: tuple[float, float],
    finite: Callable[[Array], Array] = finite_gradient,
) -> AdamState:
    """The moments after seeing `grads`.

    Args:
      state: the moments before.
      grads: pytree like `params`.
      params: the parameters, whose shapes all must have.
      decays: of the first and the second moment.
      finite: what is taken for a gradient that is huge or not finite, `finite_gradient` or
        `unclipped_gradient`.

    Raises:
      CeloError: for gradients or moments of another shape than their parameter.
    """
    check_gradients(params, grads)
    for moment in (state.first, state.second):
        check_shapes(params, moment, "its state")
    first_decay, second_decay = decays
    grads = jax.tree.map(finite, grads)
    return AdamState(
        step=state.step + 1,
        first=jax.tree.map(lambda m, g: ema(m, g, first_decay), state.first, grads),
        second=jax.tree.map(lambda v, g: ema(v, g * g, second_decay), state.second, grads),
    )
