"""Celo: the learned update rule times the learned step size (arXiv 2501.12670, section 3).

`Celo` is the optimizer that meta-training trains; `celo` and `celo_rule` are the optax transformations that
users apply, with weights bound.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

from celo._kernels.per_layer import PerLayer
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers import _schedule as scheduler
from celo.optimizers import _update_rule as update_rule
from celo.optimizers._base import LearnedOptimizer, scaled
from celo.optimizers._bind import Weights
from celo.optimizers._halves import scale_by_celo_rule, scale_by_celo_schedule
from celo.optimizers._rate import rate_and_decay
from celo.transforms._nonfinite import guard_nonfinite


class CeloState(NamedTuple):
    """State of both halves."""

    rule: update_rule.RuleState
    schedule: scheduler.ScheduleState


@dataclasses.dataclass(frozen=True)
class Celo(LearnedOptimizer):
    """The whole optimizer: the optimizer of meta-training's second phase.

    Attributes:
      kernel: what computes the update rule, as in `UpdateRule`.
    """

    kernel: str = "xla"
    theta_groups = (update_rule.GROUP, scheduler.GROUP)

    def __post_init__(self):
        self._rule  # noqa: B018 - refuses a kernel that it cannot have

    @property
    def _rule(self) -> update_rule.UpdateRule:
        return update_rule.UpdateRule(self.kernel)

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights for the rule and the scheduler; 35,803 in all."""
        key_rule, key_scheduler = jax.random.split(key)
        return {
            **update_rule.UpdateRule().init_theta(key_rule),
            scheduler.GROUP: scheduler.init_theta(key_scheduler),
        }

    def init(self, theta: Theta, params: Params, num_steps: Array) -> CeloState:
        """Zero statistics and a schedule at its beginning."""
        return CeloState(
            rule=self._rule.init(theta, params, num_steps),
            schedule=scheduler.init(theta[scheduler.GROUP], num_steps),
        )

    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, CeloState]:
        """The rule's update, times the schedule's step size."""
        updates, rule = self._rule.update(theta, grads, state.rule, params, value=value)
        eta, schedule = scheduler.advance(theta[scheduler.GROUP], state.schedule, value)
        return scaled(updates, eta), CeloState(rule, schedule)


def celo(
    num_steps: int,
    *,
    weights: Weights = "celo",
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: float | Array = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    plateau: float | None = None,
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "xla",
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
      weight_decay: decoupled: each step subtracts learning_rate * weight_decay * parameter. The
        learning rate is about 1 here, not 1e-3: useful values are a thousand times AdamW's smaller.
      mask: pytree of bools, or a function of the parameters giving one: what is decayed.
      nonfinite: what a step does whose gradient or loss is not finite: "repair", "hold", "skip" or
        "shrink", with counters in the state (`guard_nonfinite`). None is "repair" without counters.
      plateau: as in `scale_by_celo_schedule`: a share of the horizon where the schedule waits for
        `celo.cool_down`.
      min_rms: as in `scale_by_celo_rule`, for tensors that begin at zero.
      per_layer: as in `scale_by_celo_rule`, for tensors that stack layers.
      state_dtype: as in `scale_by_celo_rule`: "bfloat16" halves the state.
      kernel: "xla" or "native", as in `scale_by_celo_rule`.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: for a wrong `num_steps` or another option out of its range, or weights that do not fit; in
        `update`, for missing parameters or a missing or non-scalar loss.

    Warns:
      OutOfRangeWarning: once, if `num_steps` or, in `init`, the model is far outside what the weights were
        meta-trained on, where their file says so.

    References:
      Moudgil, Knyazev, Lajoie, Belilovsky, "Celo: Training Versatile Learned Optimizers on a Compute
      Diet", arXiv 2501.12670.
    """
    tx = optax.chain(
        scale_by_celo_rule(
            weights, kernel=kernel, min_rms=min_rms, per_layer=per_layer, state_dtype=state_dtype
        ),
        scale_by_celo_schedule(num_steps, weights, plateau=plateau),
        *rate_and_decay(learning_rate, weight_decay, mask),
    )
    return tx if nonfinite is None else guard_nonfinite(tx, nonfinite)


def celo_rule(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weights: Weights = "celo",
    weight_decay: float | Array = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
    nonfinite: str | None = None,
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
    kernel: str = "xla",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule under a schedule of yours: the mode for loops that have no loss or no horizon.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = celo.celo_rule(optax.cosine_decay_schedule(1.0, decay_steps=1_000))
    >>> params = {"w": jnp.ones((3, 2))}
    >>> updates, state = tx.update(params, tx.init(params), params)  # no value=

    Args:
      learning_rate: a number or an optax schedule. At 1 a step is about 0.001 of each tensor's root mean
        square; the learned schedule, which this replaces, falls from about (1000 / num_steps)^0.6 to zero.
      weights: a bundled name, a path to a .safetensors file, or θ itself; the rule's part is enough.
      weight_decay: as in `celo.celo`; so are the others.
      mask: what is decayed.
      nonfinite: policy for gradients that are not finite.
      min_rms: for tensors that begin at zero.
      per_layer: for tensors that stack layers.
      state_dtype: "bfloat16" halves the state.
      kernel: "xla" or "native".

    Returns:
      A transformation whose `update` needs the parameters; `value=` may be given and is not read.

    Raises:
      CeloError: as `celo.celo`.
    """
    tx = optax.chain(
        scale_by_celo_rule(
            weights, kernel=kernel, min_rms=min_rms, per_layer=per_layer, state_dtype=state_dtype
        ),
        *rate_and_decay(learning_rate, weight_decay, mask),
    )
    return tx if nonfinite is None else guard_nonfinite(tx, nonfinite)
