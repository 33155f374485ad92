"""The contract of a learned optimizer, and its one bridge to optax."""

import abc
import numbers
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer

from celo._errors import CeloError
from celo._types import Array, Key, OptState, Params, Theta, Updates


class LearnedOptimizer(abc.ABC):
    """A rule with weights θ that turns gradients and losses into updates.

    Settings are fields of the (frozen) subclass, arrays are arguments: the methods are pure, can be
    jitted, and can be vmapped over θ as well as over parameters. `theta_groups` names the top-level
    groups of θ that the optimizer reads.
    """

    theta_groups: tuple[str, ...]

    @abc.abstractmethod
    def init_theta(self, key: Key) -> Theta:
        """Fresh weights, ready for meta-training."""

    @abc.abstractmethod
    def init(self, theta: Theta, params: Params, num_steps: Array) -> OptState:
        """The state before the first step.

        Args:
          theta: weights; groups outside `theta_groups` are ignored.
          params: pytree of the parameters to train, or of their shapes (`jax.eval_shape`).
          num_steps: int32 scalar, the steps that training will take (the horizon).
        """

    @abc.abstractmethod
    def update(
        self, theta: Theta, grads: Updates, state: OptState, params: Params, *, value: Array
    ) -> tuple[Updates, OptState]:
        """One step.

        Args:
          theta: weights, as in `init`.
          grads: gradients, a pytree like `params`.
          state: what `init` or the last `update` returned; its shapes and dtypes never change.
          params: the parameters as they are.
          value: the training loss at `params`, a scalar.

        Returns:
          (updates, state); the updates are to be added to the parameters and have their dtypes.
        """


def as_optax(
    optimizer: LearnedOptimizer, theta: Theta, num_steps: Any
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation: the learned optimizer with its weights and horizon bound.

    Raises:
      CeloError: if `num_steps` is not a positive whole number.
    """
    horizon = check_num_steps(num_steps)

    def init_fn(params: Params) -> OptState:
        return optimizer.init(theta, params, jnp.asarray(horizon, jnp.int32))

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, OptState]:
        del extra_args
        return optimizer.update(theta, updates, state, require_params(params), value=require_value(value))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def check_num_steps(num_steps: Any) -> Any:
    """`num_steps` as it came, if it is a positive whole number or a traced integer scalar."""
    if isinstance(num_steps, jax.Array):
        if num_steps.shape != () or not jnp.issubdtype(num_steps.dtype, jnp.integer):
            raise CeloError(
                f"num_steps must be a scalar integer, got {num_steps.dtype}{list(num_steps.shape)}; "
                "pass the number of training steps"
            )
        if isinstance(num_steps, Tracer):
            return num_steps
        num_steps = int(num_steps)
    if isinstance(num_steps, bool) or not isinstance(num_steps, numbers.Integral) or num_steps < 1:
        raise CeloError(
            f"num_steps must be a positive whole number, got {num_steps!r}; "
            "pass the number of steps that training will take"
        )
    return int(num_steps)


def require_params(params: Params | None) -> Params:
    """The parameters, or the error optax gives when a transformation misses them."""
    if params is None:
        raise CeloError(
            "this optimizer reads the parameters, got params=None; "
            "call update(grads, state, params, value=loss)"
        )
    return params


def require_value(value: Any) -> Array:
    """The loss as a float32 scalar.

    Raises:
      CeloError: if it is missing or not a scalar.
    """
    if value is None:
        raise CeloError(
            "this optimizer reads the training loss, got value=None; "
            "call update(grads, state, params, value=loss). Inside optax.chain, optax.MultiSteps drops "
            "`value`: keep it outermost, or use celo.accumulate. Where there is no loss, use "
            "celo.celo_rule(learning_rate)"
        )
    value = jnp.asarray(value)
    if value.shape != ():
        raise CeloError(f"value must be the scalar training loss, got shape {value.shape}; pass its mean")
    return value.astype(jnp.float32)


def scaled(updates: Updates, factor: Array) -> Updates:
    """Updates times a float32 scalar, in their own dtypes."""
    return jax.tree.map(lambda u: (factor * u.astype(jnp.float32)).astype(u.dtype), updates)
