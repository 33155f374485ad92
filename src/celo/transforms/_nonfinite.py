"""What becomes of a step whose gradient or loss is not finite: a guard around a whole optimizer.

The rule never lets such a number into its statistics: a NaN in a gradient counts as zero, an infinity as
±1000, a loss that is not finite as a spike. That is the policy "repair". The others take the whole step
back, because a gradient with a hole in it is often wrong everywhere.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._arguments import require_value, where_given
from celo._definitions import DOUBLING_STEPS, POLICIES, SMALLEST_SCALE
from celo._errors import unknown_name
from celo._layout import placed_with, varying_zero
from celo._tree import scaled
from celo._types import Array, OptState, Params, Updates


class NonfiniteState(NamedTuple):
    """The guarded optimizer's state, and what has been seen."""

    inner_state: OptState
    bad_gradients: Array  # int32, steps with a gradient that was not finite
    bad_losses: Array  # int32, steps with a loss that was not finite
    in_a_row: Array  # int32, bad steps since the last good one
    scale: Array  # float32, what updates are multiplied by; 1 but for "shrink"


def guard_nonfinite(
    tx: optax.GradientTransformationExtraArgs, policy: str
) -> optax.GradientTransformationExtraArgs:
    """`tx` with a policy for gradients or losses that are not finite, and with counters in its state.

    >>> import celo, jax.numpy as jnp, optax
    >>> tx = optax.chain(optax.clip_by_global_norm(1.0), celo.celo(num_steps=100))
    >>> tx = celo.guard_nonfinite(tx, "skip")
    >>> params = {"w": jnp.ones((3, 2))}
    >>> bad = {"w": jnp.full((3, 2), jnp.nan)}
    >>> updates, state = tx.update(bad, tx.init(params), params, value=1.0)
    >>> int(state.bad_gradients)
    1

    Args:
      tx: one of the library's optimizers, or a chain that contains one.
      policy: what a bad step does:

        * "repair": it is taken, bad elements replaced (see the module).
        * "hold": nothing. No update; the optimizer's state stays as it is, its clock included.
        * "skip": no update, gradient statistics as they were; time goes on, in the learned schedule and in
          the learning rate's, and the learned schedule hears the loss.
        * "shrink": as "skip", and the steps after it are half as long; they double in 100 good steps until
          they are whole again.

    Raises:
      CeloError: for another policy.
    """
    if policy not in POLICIES:
        raise unknown_name("policy for non-finite numbers", policy, POLICIES)

    def init_fn(params: Params) -> NonfiniteState:
        # Each its own array: leaves of a donated state may not share memory.
        inner_state, zero = tx.init(params), varying_zero(jax.tree.leaves(params))
        counters = [jnp.array(zero, jnp.int32) for _ in range(3)]
        return placed_with(params, NonfiniteState(inner_state, *counters, scale=1.0 + zero))

    def update_fn(
        updates: Updates,
        state: OptState,
        params: Params | None = None,
        *,
        value: Any = None,
        **extra_args: Any,
    ) -> tuple[Updates, NonfiniteState]:
        def step(grads: Updates) -> tuple[Updates, OptState]:
            return tx.update(grads, state.inner_state, params, value=value, **extra_args)

        def stand_still() -> tuple[Updates, OptState]:
            zeros = _zeros_like(updates if params is None else where_given(updates, params))
            if policy == "hold":
                return zeros, state.inner_state
            return zeros, _with_statistics_of(state.inner_state, step(_zeros_like(updates))[1])

        bad_gradient = ~_all_finite(updates)
        bad_loss = jnp.zeros((), jnp.bool_) if value is None else ~jnp.isfinite(require_value(value))
        bad = bad_gradient | bad_loss
        if policy == "repair":
            updates, inner_state = step(updates)
        else:
            updates, inner_state = jax.lax.cond(bad, stand_still, lambda: step(updates))
        scale = state.scale
        if policy == "shrink":
            updates = scaled(updates, scale)
            scale = jnp.where(bad, scale / 2, scale * 2 ** (1 / DOUBLING_STEPS))
            scale = jnp.clip(scale, SMALLEST_SCALE, 1.0)
        return updates, NonfiniteState(
            inner_state=inner_state,
            bad_gradients=state.bad_gradients + bad_gradient.astype(jnp.int32),
            bad_losses=state.bad_losses + bad_loss.astype(jnp.int32),
            in_a_row=jnp.where(bad, state.in_a_row + 1, 0),
            scale=scale,
        )

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _all_finite(updates: Updates) -> Array:
    leaves = [leaf for leaf in jax.tree.leaves(updates) if jnp.result_type(leaf) != jax.dtypes.float0]
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in leaves]
    return jnp.all(jnp.stack(finite)) if finite else jnp.ones((), jnp.bool_)


def _zeros_like(arrays: Updates) -> Updates:
    return jax.tree.map(jnp.zeros_like, arrays)


def _with_statistics_of(old: OptState, new: OptState) -> OptState:
    """`new` with statistics of gradients, wherever they are in it, taken from `old`.

    Which parts those are the states of learned optimizers say themselves, by `holds_gradient_statistics`.
    """

    def is_statistics(node: Any) -> bool:
        return getattr(node, "holds_gradient_statistics", False)

    return jax.tree.map(lambda o, n: o if is_statistics(o) else n, old, new, is_leaf=is_statistics)
