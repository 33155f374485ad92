"""Celo-Adam: Adam's direction times Celo's learned step size (arXiv 2501.12670, appendix).

The update is -0.001 * eta * m / (sqrt(v + 1e-10) + 1e-8), with m and v Adam's bias-corrected moments (decays
0.9 and 0.999) and eta the scheduler's. Unlike Celo's rule it does not measure steps by the parameters' size.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import as_arrays, filled, require_params, where_given
from celo._definitions import ADAM_DECAYS, ADAM_FLOOR, ADAM_ROOT_FLOOR, STEP_SCALE
from celo._kernels import native
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers import _schedule
from celo.optimizers._adam import AdamState, init_moments, update_moments
from celo.optimizers._base import LearnedOptimizer, chain
from celo.optimizers._bind import WeightsLike, bind
from celo.optimizers._schedule import ScheduleState, scale_by_schedule


class CeloAdamState(NamedTuple):
    """Adam's moments and the schedule."""

    moments: AdamState
    schedule: ScheduleState


@dataclasses.dataclass(frozen=True)
class CeloAdam(LearnedOptimizer):
    """The whole optimizer, as meta-training takes it. θ is {"scheduler": …}, as Celo's.

    Attributes:
      kernel: of no consequence, for there is no learned rule to compute: XLA fuses Adam's step by itself.

    Raises:
      CeloError: for an unknown kernel.
    """

    kernel: str = "auto"
    theta_groups: ClassVar[tuple[str, ...]] = (_schedule.GROUP,)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = _schedule.OPTIONAL_THETA

    def __post_init__(self):
        native.check_name(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights of the scheduler; 35,649."""
        return {_schedule.GROUP: _schedule.init_theta(key)}

    def init(self, theta: Theta, params: Params, num_steps: Array) -> CeloAdamState:
        """Zero moments and a schedule at its beginning."""
        return CeloAdamState(
            moments=init_moments(params),
            schedule=_schedule.init(theta[_schedule.GROUP], num_steps),
        )

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, CeloAdamState]:
        """Adam's direction, times the schedule's step size."""
        updates, moments = _adam_step(grads, state.moments, params)
        updates, schedule = _schedule.scale(theta[_schedule.GROUP], updates, state.schedule, value)
        return updates, CeloAdamState(moments, schedule)


def celo_adam(
    num_steps: int,
    *,
    weights: WeightsLike,
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    plateau: float | None = None,
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo-Adam as an optax transformation. No weights of it are bundled: convert the published ones.

    >>> import celo, jax, jax.numpy as jnp
    >>> theta = celo.optimizers.CeloAdam().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.celo_adam(num_steps=100, weights=theta)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params, value=1.0)

    Args:
      num_steps: the steps that training will take (the horizon).
      weights: a path to a .safetensors file (`celo convert theta.state celo_adam.safetensors`), or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: in AdamW's units: each step also subtracts weight_decay * parameter times AdamW's learning
        rate, which is 0.001 * learned step size * learning_rate.
      mask: what is decayed, as in `celo.celo`; so are the others.
      nonfinite: what a step does whose gradient or loss is not finite.
      plateau: a share of the horizon where the schedule waits for `celo.cool_down`.
      kernel: as in `CeloAdam`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: as `celo.celo`.
    """
    return chain(
        optax.GradientTransformation(init_moments, _adam_step),
        scale_by_schedule(num_steps, bind(weights, CeloAdam(kernel)), plateau),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
        unit=STEP_SCALE,
    )


def _adam_step(updates: Updates, state: OptState, params: Params | None = None) -> tuple[Updates, AdamState]:
    """Steps of about 0.001, downhill, in the parameters' dtypes."""
    params, before = as_arrays(where_given(updates, require_params(params))), state
    given = state._replace(first=where_given(updates, state.first), second=where_given(updates, state.second))
    state = update_moments(given, as_arrays(updates), params, ADAM_DECAYS)
    steps = state.step.astype(jnp.float32)
    share_first, share_second = (1.0 - decay**steps for decay in ADAM_DECAYS)  # of a whole mean

    def step(m: Array, v: Array, p: Array) -> Array:
        direction = m / share_first / (jnp.sqrt(v / share_second + ADAM_ROOT_FLOOR) + ADAM_FLOOR)
        return (-STEP_SCALE * direction).astype(p.dtype)

    return jax.tree.map(step, state.first, state.second, params), filled(state, before)
