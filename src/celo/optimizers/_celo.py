"""Celo: the learned update rule times the learned step size (arXiv 2501.12670, section 3).

`Celo` is what meta-training trains; `celo` is the optax transformation that users apply, with weights bound.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import jax
import optax

from celo._arguments import check_state
from celo._kernels import native
from celo._kernels.stacking import PerLayer
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers import _schedule
from celo.optimizers._base import LearnedOptimizer, chain, with_weights
from celo.optimizers._bind import WeightsLike, bind
from celo.optimizers._schedule import ScheduleState, scale_by_schedule
from celo.optimizers._update_rule import Orthogonalize, RuleState, SplitState, UpdateRule


class CeloState(NamedTuple):
    """State of rule and schedule."""

    rule: RuleState | SplitState
    schedule: ScheduleState


@dataclasses.dataclass(frozen=True)
class Celo(LearnedOptimizer):
    """The whole optimizer, with both groups of θ.

    Attributes:
      kernel: what computes the update rule, as in `UpdateRule`.

    Raises:
      CeloError: as `UpdateRule`.
    """

    kernel: str = "auto"
    theta_groups: ClassVar[tuple[str, ...]] = (*UpdateRule.theta_groups, _schedule.GROUP)
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = {
        **UpdateRule.optional_theta,
        **_schedule.OPTIONAL_THETA,
    }
    fixed_theta: ClassVar[tuple[str, ...]] = UpdateRule.fixed_theta

    def __post_init__(self):
        native.check_kernel(self.kernel)

    @property
    def _rule(self) -> UpdateRule:
        return UpdateRule(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights for the rule and the scheduler; 35,803 in all."""
        key_rule, key_scheduler = jax.random.split(key)
        return {
            **self._rule.init_theta(key_rule),
            _schedule.GROUP: _schedule.init_theta(key_scheduler),
        }

    def init(self, theta: Theta, params: Params, num_steps: Array) -> CeloState:
        """Zero statistics and a schedule at its beginning."""
        return CeloState(
            rule=self._rule.init(theta, params, num_steps),
            schedule=_schedule.init(theta[_schedule.GROUP], num_steps),
        )

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, CeloState]:
        """The rule's update, times the schedule's step size."""
        check_state(state, CeloState)
        updates, rule = self._rule.update(theta, grads, state.rule, params, value=value)
        updates, schedule = _schedule.scale(theta[_schedule.GROUP], updates, state.schedule, value)
        return updates, CeloState(rule, schedule)


def celo(
    num_steps: int,
    *,
    weights: WeightsLike = "celo",
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: optax.ScalarOrSchedule = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    plateau: float | None = None,
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    orthogonalize: Orthogonalize = None,
    state_dtype: Any = "float32",
    kernel: str = "auto",
) -> optax.GradientTransformationExtraArgs:
    """Celo as an optax transformation, with pretrained weights.

    >>> import celo, jax, jax.numpy as jnp, optax
    >>> tx = celo.celo(num_steps=100)
    >>> params = {"w": jnp.ones((3, 2))}
    >>> state = tx.init(params)
    >>> loss, grads = jax.value_and_grad(lambda p: jnp.sum(p["w"] ** 2))(params)
    >>> updates, state = tx.update(grads, state, params, value=loss)
    >>> params = optax.apply_updates(params, updates)

    Args:
      num_steps: the steps that training will take (the horizon); the learned schedule depends on it.
        `celo.with_horizon` changes it in mid-run.
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: decoupled, in AdamW's units: each step also subtracts weight_decay * parameter times what
        stands in for AdamW's learning rate, 0.01 * learned step size * learning_rate. Useful values are
        AdamW's, 0.01 to 0.1.
      mask: pytree of bools, or a function of the parameters giving one: what is decayed.
      nonfinite: what a step does whose gradient or loss is not finite: "repair", "hold", "skip" or
        "shrink", with counters in the state (`guard_nonfinite`). None is "repair" without counters.
      plateau: as in `scale_by_celo_schedule`: a share of the horizon where the schedule waits for
        `celo.cool_down`.
      min_rms: as in `scale_by_celo_rule`, for tensors that begin at zero.
      per_layer: as in `scale_by_celo_rule`, for tensors that stack layers.
      orthogonalize: as in `scale_by_celo_rule`, for the steps of matrices.
      state_dtype: as in `scale_by_celo_rule`: "bfloat16" halves the state.
      kernel: "auto", "native" or "xla", as in `scale_by_celo_rule`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: for a wrong `num_steps` or another option out of its range, or weights that do not fit; in
        `update`, for missing parameters or a missing or non-scalar loss.

    Warns:
      OutOfRangeWarning: once, if `num_steps` or, in `init`, the model is far outside what the weights were
        meta-trained on, where their file says so; and if `learning_rate` is a number far from 1.

    References:
      Moudgil, Knyazev, Lajoie, Belilovsky, "Celo: Training Versatile Learned Optimizers on a Compute
      Diet", arXiv 2501.12670.
    """
    rule = UpdateRule(kernel, min_rms, per_layer, orthogonalize)
    read = bind(weights, Celo(kernel))
    return chain(
        with_weights(rule, read, state_dtype=state_dtype),
        scale_by_schedule(num_steps, read, plateau),
        learning_rate=learning_rate,
        weight_decay=weight_decay,
        mask=mask,
        nonfinite=nonfinite,
    )
