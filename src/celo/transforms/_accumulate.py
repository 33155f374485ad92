"""Gradient accumulation: several micro-batches to one step of the optimizer."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import as_arrays, filled, require_value, where_given
from celo._layout import placed_with, zeros_beside
from celo._limits import check_steps
from celo._types import Array, OptState, Params, Updates


class AccumulateState(NamedTuple):
    """The optimizer's state, and sums over the micro-batches since its last step."""

    inner_state: OptState
    grads: Updates  # float32 or complex64, shaped like the gradients
    loss: Array  # float32
    mini_step: Array  # int32, micro-batches in the sums; `optax.MultiSteps` calls it so


def accumulate(tx: optax.GradientTransformation, every: int) -> optax.GradientTransformationExtraArgs:
    """One step of `tx` for every `every` calls, from the mean of their gradients and of their losses.

    The calls in between return updates of zero and cost a sum: the optimizer runs only when its turn comes
    (under `vmap`, which cannot branch, it runs every time). It sees one step where the loop makes `every`
    calls: `num_steps` is to be the number of *steps*, calls / every.

    >>> import celo
    >>> tx = celo.accumulate(celo.celo(num_steps=10_000 // 4), every=4)  # in a loop of 10,000 calls

    Args:
      tx: the optimizer. If `value=` is given it gets the mean, other extra arguments as in the last call.
      every: micro-batches to a step. They count equally: they should be of one size.

    Raises:
      CeloError: if `every` is not a positive whole number; what `tx` raises.
    """
    every = check_steps(every, "every", "micro-batches to a step")
    inner = optax.with_extra_args_support(tx)

    def init_fn(params: Params) -> AccumulateState:
        state = AccumulateState(
            inner_state=inner.init(params),
            grads=jax.tree.map(_zeros, params),
            loss=jnp.zeros((), jnp.float32),
            mini_step=jnp.zeros((), jnp.int32),
        )
        return placed_with(params, state)

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, AccumulateState]:
        updates = as_arrays(updates)
        like = updates if params is None else as_arrays(where_given(updates, params))
        old = where_given(updates, state.grads)
        sums = jax.tree.map(lambda total, g: total + g.astype(total.dtype), old, updates)
        loss = state.loss if value is None else state.loss + require_value(value)
        mini_step = state.mini_step + 1

        def step() -> tuple[Updates, AccumulateState]:
            mean = jax.tree.map(lambda total, g: (total / every).astype(g.dtype), sums, updates)
            given = extra_args if value is None else {**extra_args, "value": loss / every}
            steps, inner_state = inner.update(mean, state.inner_state, params, **given)
            steps = jax.tree.map(lambda u, p: u.astype(p.dtype), steps, like)
            zeros = jax.tree.map(jnp.zeros_like, (filled(sums, state.grads), loss, mini_step))
            return steps, AccumulateState(inner_state, *zeros)

        def wait() -> tuple[Updates, AccumulateState]:
            zeros = jax.tree.map(jnp.zeros_like, like)
            return zeros, AccumulateState(state.inner_state, filled(sums, state.grads), loss, mini_step)

        return jax.lax.cond(mini_step == every, step, wait)

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _zeros(param: Any) -> Array:
    """For a sum of gradients: float32, or complex64."""
    zeros = zeros_beside(param, jnp.shape(param))
    return zeros.astype(jnp.complex64) if jnp.iscomplexobj(param) else zeros
