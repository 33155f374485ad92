"""Celo's two halves as optax transformations: the rule under any schedule, the schedule over any rule."""

from typing import Any

import jax.numpy as jnp
import optax

from celo._kernels.per_layer import PerLayer
from celo._types import Array, OptState, Params, Updates
from celo.optimizers import _schedule as scheduler
from celo.optimizers import _update_rule as update_rule
from celo.optimizers._base import check_num_steps, require_params, require_value, scaled
from celo.optimizers._bind import Weights, load_theta
from celo.optimizers._horizon import hold_plateau
from celo.optimizers._trained_range import trained_range
from celo.transforms._low_precision_state import check_state_dtype, in_bfloat16


def scale_by_celo_rule(
    weights: Weights = "celo",
    *,
    kernel: str = "xla",
    min_rms: float | Array | None = None,
    per_layer: PerLayer = None,
    state_dtype: Any = "float32",
) -> optax.GradientTransformationExtraArgs:
    """Celo's update rule alone, to be used under any schedule; it needs neither loss nor horizon.

    The updates point downhill and are to be added: scale them by a positive rate, for example with
    `optax.scale_by_learning_rate(rate, flip_sign=False)`. A rate of 1 is a step of about 0.001 of each
    tensor's root mean square; Celo's own schedule falls from about (1000 / num_steps)^0.6 to zero.
    `celo.celo_rule` does it.

    Args:
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      kernel: "xla" runs anywhere; "native" is several times faster on CPUs, for unsharded parameters,
        and compiles itself at first use with the system's C++ compiler.
      min_rms: a tensor counts as at least this large in the length of its step. None: what the weights say,
        0.01 for the bundled ones. 0 is the published rule, under which a tensor of zeros takes steps of
        3e-8; see docs/loops.md.
      per_layer: how many leading axes of each tensor count layers, which are then treated apart: a pytree
        prefix of the parameters with whole numbers (`{"blocks": 1, "head": 0}`), or a function of the
        parameters giving one.
      state_dtype: float32, or bfloat16 for statistics of half the size.

    Raises:
      CeloError: if the weights cannot be read or do not fit, the kernel cannot be had, or an option is
        out of range; in `init`, if `per_layer` does not fit the parameters.
    """
    theta, trained = load_theta(weights, (update_rule.GROUP,)), trained_range(weights)
    rule = update_rule.UpdateRule(kernel, min_rms, per_layer)

    def init_fn(params: Params) -> update_rule.RuleState:
        trained.check_size(params)
        return rule.init(theta, params, jnp.ones((), jnp.int32))

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        del extra_args
        return rule.update(theta, updates, state, require_params(params), value=jnp.zeros(()))

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return in_bfloat16(tx) if check_state_dtype(state_dtype) == "bfloat16" else tx


def scale_by_celo_schedule(
    num_steps: int, weights: Weights = "celo", *, plateau: float | None = None
) -> optax.GradientTransformationExtraArgs:
    """Celo's learned schedule alone: multiplies updates by one step size read from time and loss.

    Args:
      num_steps: the steps that training will take; going on afterwards is allowed.
      weights: a bundled name, a path to a .safetensors file, or θ itself.
      plateau: a share of the horizon (0.5) at which time stands still until `celo.cool_down` is called on
        the state: for runs of unknown length.

    Raises:
      CeloError: for a wrong `num_steps` or `plateau`, or weights that do not fit; in `update`, for a missing
        loss.
    """
    theta = load_theta(weights, (scheduler.GROUP,))[scheduler.GROUP]
    horizon = check_num_steps(num_steps)
    trained_range(weights).check_horizon(horizon)

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
        return scaled(updates, eta), state

    tx = optax.GradientTransformationExtraArgs(init_fn, update_fn)
    return tx if plateau is None else hold_plateau(tx, plateau)
