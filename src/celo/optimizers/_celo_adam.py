"""Celo-Adam: Adam's direction times Celo's learned step size (arXiv 2501.12670, appendix).

The update is -0.001 * eta * m / (sqrt(v + 1e-10) + 1e-8), with m and v Adam's bias-corrected moments (decays
0.9 and 0.999) and eta the scheduler's. Unlike Celo's rule it does not measure steps by the parameters' size.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._kernels.statistics import ema, finite_gradient
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers import _schedule as scheduler
from celo.optimizers._base import LearnedOptimizer, require_params, scaled
from celo.optimizers._bind import Weights
from celo.optimizers._halves import scale_by_celo_schedule
from celo.optimizers._rate import rate_and_decay
from celo.transforms._nonfinite import guard_nonfinite

STEP_SCALE = 1e-3
FIRST_DECAY, SECOND_DECAY = 0.9, 0.999


class AdamState(NamedTuple):
    """Adam's moments, float32 and not bias-corrected."""

    step: Array  # int32, steps taken
    first: Params
    second: Params


class CeloAdamState(NamedTuple):
    """Adam's moments and the schedule."""

    moments: AdamState
    schedule: scheduler.ScheduleState


class CeloAdam(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. θ is {"scheduler": …}, as Celo's."""

    theta_groups = (scheduler.GROUP,)

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights of the scheduler; 35,649."""
        return {scheduler.GROUP: scheduler.init_theta(key)}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> CeloAdamState:
        """Zero moments and a schedule at its beginning."""
        return CeloAdamState(
            moments=_init_moments(params),
            schedule=scheduler.init(theta[scheduler.GROUP], num_steps),
        )

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, CeloAdamState]:
        """Adam's direction, times the schedule's step size."""
        updates, moments = _adam_step(grads, state.moments, params)
        eta, schedule = scheduler.advance(theta[scheduler.GROUP], state.schedule, value)
        return scaled(updates, eta), CeloAdamState(moments, schedule)


def celo_adam(
    num_steps: int,
    *,
    weights: Weights,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: float | Array = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    plateau: float | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Celo-Adam as an optax transformation. No weights of it are bundled: convert the published ones.

    Args:
      num_steps: the steps that training will take (the horizon).
      weights: a path to a .safetensors file (`celo convert theta.state celo_adam.safetensors`), or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: as in `celo.celo`; so are the others.
      mask: what is decayed.
      nonfinite: what a step does whose gradient or loss is not finite.
      plateau: a share of the horizon where the schedule waits for `celo.cool_down`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: as `celo.celo`.
    """
    tx = optax.chain(
        optax.GradientTransformation(_init_moments, _adam_step),
        scale_by_celo_schedule(num_steps, weights, plateau=plateau),
        *rate_and_decay(learning_rate, weight_decay, mask),
    )
    return tx if nonfinite is None else guard_nonfinite(tx, nonfinite)


def _init_moments(params: Params) -> AdamState:
    """Zero moments of parameters of any floating dtype."""
    first, second = (jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params) for _ in range(2))
    return AdamState(jnp.zeros((), jnp.int32), first, second)


def _adam_step(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, AdamState]:
    """Steps of about 0.001, downhill, in the parameters' dtypes."""
    params, count = require_params(params), state.step + 1
    grads = jax.tree.map(finite_gradient, updates)
    first = jax.tree.map(lambda m, g: ema(m, g, FIRST_DECAY), state.first, grads)
    second = jax.tree.map(lambda v, g: ema(v, g * g, SECOND_DECAY), state.second, grads)
    steps = count.astype(jnp.float32)
    share_first, share_second = 1.0 - FIRST_DECAY**steps, 1.0 - SECOND_DECAY**steps  # of a whole mean

    def step(m: Array, v: Array, p: Array) -> Array:
        direction = m / share_first / (jnp.sqrt(v / share_second + 1e-10) + 1e-8)
        return (-STEP_SCALE * direction).astype(p.dtype)

    return jax.tree.map(step, first, second, params), AdamState(count, first, second)
