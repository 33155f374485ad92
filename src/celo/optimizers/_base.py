"""The contract of a learned optimizer, and its one bridge to optax."""

import abc
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import jax.numpy as jnp
import optax

from celo._arguments import as_arrays, check_num_steps, require_params, require_value, where_given
from celo._definitions import RULE_STEP
from celo._layout import placed_with
from celo._limits import TrainedRange, check_rate
from celo._types import Array, Key, OptState, Params, Theta, Updates
from celo.optimizers._bind import BoundWeights
from celo.transforms._low_precision_state import check_state_dtype, in_bfloat16
from celo.transforms._nonfinite import guard_nonfinite


class LearnedOptimizer(abc.ABC):
    """A rule with weights θ that turns gradients and losses into updates.

    Settings are fields of the (frozen) subclass, arrays are arguments: the methods are pure, can be jitted,
    and can be vmapped over θ as well as over parameters. Every subclass takes `kernel` ("auto", "native" or
    "xla") as a setting; one that has no native kernel ignores it.

    Attributes:
      theta_groups: top-level groups of θ that the optimizer reads.
      optional_theta: flat name -> shape of weights that θ may have besides those of `init_theta`.
      fixed_theta: flat names of weights that are settings: meta-training leaves them as they are.
    """

    theta_groups: ClassVar[tuple[str, ...]]
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    fixed_theta: ClassVar[tuple[str, ...]] = ()

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
          params: the current parameters.
          value: the training loss at `params`, a scalar.

        Returns:
          (updates, state); the updates are to be added to the parameters and have their dtypes.
        """


def as_optax(
    optimizer: LearnedOptimizer, theta: Theta, num_steps: Any
) -> optax.GradientTransformationExtraArgs:
    """An optax transformation: the learned optimizer with its weights and horizon bound.

    >>> import celo, jax, jax.numpy as jnp
    >>> optimizer = celo.optimizers.Celo()
    >>> theta = optimizer.init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> tx = celo.as_optax(optimizer, theta, num_steps=100)
    >>> state = tx.init({"w": jnp.ones((3, 2))})

    Args:
      optimizer: any learned optimizer, yours included.
      theta: its weights.
      num_steps: the steps that training will take.

    Raises:
      CeloError: if `num_steps` is not a positive whole number.
    """
    weights = BoundWeights(theta, TrainedRange("θ"))
    return with_weights(optimizer, weights, num_steps=num_steps, reads_loss=True)


def with_weights(
    optimizer: LearnedOptimizer,
    weights: BoundWeights,
    *,
    num_steps: Any = 1,
    reads_loss: bool = False,
    state_dtype: Any = "float32",
    field: str | None = None,
) -> optax.GradientTransformationExtraArgs:
    """The one bridge to optax, by which every learned optimizer takes the leaves that optax's take.

    Args:
      optimizer: any.
      weights: its own.
      num_steps: the horizon; of no consequence to an optimizer that has none.
      reads_loss: whether `update` must be given one; else the optimizer is handed 0.
      state_dtype: "bfloat16" for a state of half the size.
      field: that of the state which is kept in bfloat16; None: all of it.

    Raises:
      CeloError: if `num_steps` is not a positive whole number, or for another dtype.
    """
    narrow = check_state_dtype(state_dtype) == "bfloat16"
    horizon = check_num_steps(num_steps)

    def init_fn(params: Params) -> OptState:
        params = as_arrays(params)
        state = optimizer.init(weights.theta, params, jnp.asarray(horizon, jnp.int32))
        weights.check_size(params)  # after `init`, which refuses what has no size
        return placed_with(params, state)

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, OptState]:
        del extra_args
        loss = require_value(value) if reads_loss else jnp.zeros(())
        params = as_arrays(where_given(updates, require_params(params)))
        return optimizer.update(weights.theta, as_arrays(updates), state, params, value=loss)

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return in_bfloat16(tx, field) if narrow else tx


def chain(
    direction: optax.GradientTransformation,
    *scales: optax.GradientTransformation,
    learning_rate: optax.ScalarOrSchedule,
    weight_decay: optax.ScalarOrSchedule,
    mask: Any | Callable[[Params], Any] | None,
    nonfinite: str | None,
    unit: float = RULE_STEP,
    trained_rate: float | None = 1.0,
) -> optax.GradientTransformationExtraArgs:
    """Learned steps, which point downhill, under what optimizers of optax offer besides.

    Args:
      direction: what makes the steps.
      scales: what multiplies them, such as a learned schedule.
      learning_rate: multiplies them too.
      weight_decay: in AdamW's units: where a learned step is multiplied by s, s * unit * weight_decay of the
        parameter is subtracted. 0 is none.
      mask: what is decayed.
      nonfinite: a policy of `guard_nonfinite`, or None for no guard.
      unit: what stands for AdamW's learning rate at a step size of 1.
      trained_rate: the learning rate that weights were trained for; None where it is to be tuned.

    Raises:
      CeloError: for a learning rate that is a negative number, or an unknown policy.

    Warns:
      OutOfRangeWarning: once, for a learning rate that is a number far from the trained one.
    """
    if isinstance(learning_rate, int | float):
        check_rate(learning_rate, "learning_rate", trained_rate)
    links = [direction, *scales, optax.scale_by_learning_rate(learning_rate, flip_sign=False)]
    if not (isinstance(weight_decay, int | float) and weight_decay == 0):
        links.insert(1, optax.add_decayed_weights(_downhill(weight_decay, unit), mask))
    linked = optax.chain(*links)

    def init_fn(params: Params) -> OptState:
        return placed_with(params, linked.init(params))

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        return linked.update(updates, state, where_given(updates, require_params(params)), **extra_args)

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return tx if nonfinite is None else guard_nonfinite(tx, nonfinite)


def _downhill(weight_decay: optax.ScalarOrSchedule, unit: float) -> Any:
    if callable(weight_decay):
        return lambda count: -unit * jnp.asarray(weight_decay(count))
    return -unit * weight_decay
