"""Celo: the learned update rule times the learned step size (arXiv 2501.12670, section 3).

`Celo` is the optimizer that meta-training trains; `celo`, `scale_by_celo_rule` and `scale_by_celo_schedule`
are the optax transformations that users apply, with weights bound.
"""

import dataclasses
import os
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from celo import weights as weights_files
from celo.errors import CeloError
from celo.optimizers import scheduler, update_rule
from celo.optimizers.base import LearnedOptimizer, check_num_steps, require_params, require_value
from celo.types import Array, Key, OptState, Params, Theta, Updates

Weights = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, file, or θ itself


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
        return _scale(updates, eta), CeloState(rule, schedule)


def scale_by_celo_rule(
    weights: Weights = "celo", *, kernel: str = "xla"
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule alone, to be used under any schedule; it needs neither loss nor horizon.

    The updates point downhill and are to be added: scale them by a positive rate, for example with
    `optax.scale_by_learning_rate(rate, flip_sign=False)`. A rate of 1 is a step of about 0.001 of each
    tensor's root mean square; Celo's own schedule stays between about 0.1 and 3.

    Args:
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      kernel: as in `celo`.

    Raises:
      CeloError: if the weights cannot be read or do not fit, or the kernel cannot be had.
    """
    theta = load_theta(weights, (update_rule.GROUP,))
    rule = update_rule.UpdateRule(kernel)

    def init_fn(params: Params) -> update_rule.RuleState:
        return rule.init(theta, params, jnp.ones((), jnp.int32))

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        del extra_args
        return rule.update(theta, updates, state, require_params(params), value=jnp.zeros(()))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def scale_by_celo_schedule(
    num_steps: int, weights: Weights = "celo"
) -> optax.GradientTransformationExtraArgs:
    """Celo's learned schedule alone: multiplies updates by one step size read from time and loss.

    Args:
      num_steps: the steps that training will take; going on afterwards is allowed.
      weights: a bundled name, a path to a .safetensors file, or θ itself.

    Raises:
      CeloError: for a wrong `num_steps` or weights that do not fit; in `update`, for a missing loss.
    """
    theta = load_theta(weights, (scheduler.GROUP,))[scheduler.GROUP]
    horizon = check_num_steps(num_steps)

    def init_fn(params: Params) -> scheduler.ScheduleState:
        del params
        return scheduler.init(theta, jnp.asarray(horizon, jnp.int32))

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, OptState]:
        del params, extra_args
        eta, state = scheduler.advance(theta, state, require_value(value))
        return _scale(updates, eta), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def celo(
    num_steps: int,
    *,
    weights: Weights = "celo",
    learning_rate: optax.ScalarOrSchedule = 1.0,
    weight_decay: float | Array = 0.0,
    mask: Any | Callable[[Params], Any] | None = None,
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
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      learning_rate: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: decoupled: each step subtracts learning_rate * weight_decay * parameter. The
        learning rate is about 1 here, not 1e-3: useful values are a thousand times AdamW's smaller.
      mask: pytree of bools, or a function of the parameters giving one: what is decayed.
      kernel: "xla" runs anywhere; "native" is several times faster on CPUs, for unsharded parameters,
        and compiles itself at first use with the system's C++ compiler.

    Returns:
      A transformation whose `update` needs the parameters and `value=`, the training loss.

    Raises:
      CeloError: for a wrong `num_steps` or weights that do not fit; in `update`, for missing
        parameters or a missing or non-scalar loss.

    References:
      Moudgil, Knyazev, Lajoie, Belilovsky, "Celo: Training Versatile Learned Optimizers on a Compute
      Diet", arXiv 2501.12670.
    """
    theta = load_theta(weights, Celo.theta_groups)
    parts: list[optax.GradientTransformation] = [
        scale_by_celo_rule(theta, kernel=kernel),
        scale_by_celo_schedule(num_steps, theta),
    ]
    if isinstance(weight_decay, int | float) and weight_decay == 0:
        parts += [optax.scale_by_learning_rate(learning_rate, flip_sign=False)]
    else:  # decay points uphill, as gradients do, until the learning rate turns both around
        parts += [
            optax.scale(-1.0),
            optax.add_decayed_weights(weight_decay, mask),
            optax.scale_by_learning_rate(learning_rate),
        ]
    return optax.chain(*parts)


def load_theta(weights: Weights, groups: tuple[str, ...]) -> Theta:
    """θ with at least the named groups, from a bundled name, a file or θ itself.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or of other shapes.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        theta, source = weights, "weights="
    else:
        theta, source = weights_files.load(weights).theta, str(weights)
    theta = {
        group: dict(theta[group]) if isinstance(theta[group], Mapping) else theta[group]
        for group in groups
        if group in theta
    }
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(theta)):
        weights_files.check_theta(theta, expected_shapes(groups), source=source)
    return jax.tree.map(jnp.asarray, theta)


def expected_shapes(groups: tuple[str, ...] = Celo.theta_groups) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of every weight in the named groups of Celo's θ."""
    theta = jax.eval_shape(Celo().init_theta, jax.random.key(0))
    return {f"{group}/{name}": tuple(leaf.shape) for group in groups for name, leaf in theta[group].items()}


def _scale(updates: Updates, eta: Array) -> Updates:
    return jax.tree.map(lambda u: (eta * u.astype(jnp.float32)).astype(u.dtype), updates)
