"""Horizons that change or are not known: edits of the learned schedule's state, which stays a plain pytree.

The schedule reads time as a share of the horizon, step / num_steps, and averages the loss over time scales
from 10 steps to the horizon. Another horizon is another share and other time scales; an open end is a
clock that stands still.
"""

from typing import Any

import jax
import jax.numpy as jnp

from celo._arguments import check_num_steps
from celo._errors import CeloError
from celo._types import Array, OptState
from celo.optimizers import _schedule
from celo.optimizers._schedule import LossHistory, PlateauState, ScheduleState, map_clocks


def with_horizon(state: OptState, num_steps: int | Array) -> OptState:
    """A state whose learned schedule ends at another step; pure, and of the same structure.

    Time is counted from the beginning of training all the same: half way through 1,000 steps, a horizon of
    2,000 puts the schedule back to its first quarter, one of 500 to its end.

    >>> import celo, jax.numpy as jnp
    >>> state = celo.celo(num_steps=1_000).init({"w": jnp.ones(3)})
    >>> state = celo.with_horizon(state, 2_000)

    Args:
      state: any pytree that holds a state of `celo.celo`, `celo.scale_by_celo_schedule` or `celo.velo`.
      num_steps: the steps that training will take in all.

    Raises:
      CeloError: if `num_steps` is not a positive whole number, or there is no learned schedule in `state`.
    """
    check_num_steps(num_steps)
    found = []
    map_clocks(found.append, state)
    if not found:
        raise _nothing("learned schedule", state, "celo.celo(num_steps)")
    return prolonged(state, num_steps)


def prolonged(state: OptState, num_steps: int | Array) -> OptState:
    """As `with_horizon`, for the state of any learned optimizer: one that keeps no time stays as it is."""
    total = jnp.asarray(num_steps, jnp.int32)

    def extend(clock: Any) -> Any:
        clock = _stretched(clock, total)
        return clock._replace(sized_for=total) if isinstance(clock, ScheduleState) else clock

    return map_clocks(extend, state)


def cool_down(state: OptState, num_steps: int | Array) -> OptState:
    """A state whose learned schedule leaves its plateau and comes to its end in `num_steps` steps.

    What is left of the schedule is run through at an even pace: with a plateau at a half, the second half.

    >>> import celo, jax.numpy as jnp
    >>> state = celo.celo(num_steps=1_000, plateau=0.5).init({"w": jnp.ones(3)})
    >>> state = celo.cool_down(state, 200)

    Args:
      state: any pytree that holds a state of `celo.celo(…, plateau=…)`.
      num_steps: the steps that training will still take.

    Raises:
      CeloError: if `num_steps` is not a positive whole number, or there is no plateau in `state`.
    """
    left = jnp.asarray(check_num_steps(num_steps), jnp.int32)

    def last_steps(clock: Any) -> Any:
        share_left = jnp.maximum(clock.num_steps - clock.step, 1) / clock.num_steps
        total = jnp.round(left.astype(jnp.float32) / share_left).astype(jnp.int32)
        return _stretched(clock, total)._replace(step=total - left)

    def leave(node: Any) -> Any:
        if not is_plateau(node):
            return node
        return PlateauState(map_clocks(last_steps, node.schedule), jnp.full_like(node.share, jnp.inf))

    def is_plateau(node: Any) -> bool:
        return isinstance(node, PlateauState)

    if not any(map(is_plateau, jax.tree.leaves(state, is_leaf=is_plateau))):
        raise _nothing("PlateauState", state, "plateau=0.5")
    return jax.tree.map(leave, state, is_leaf=is_plateau)


def _stretched(schedule: Any, num_steps: Array) -> Any:
    """What keeps time with another horizon, its averages, if any, read off at the new time scales."""
    if not hasattr(schedule, "losses"):
        return schedule._replace(num_steps=num_steps)
    old, new = _schedule.half_lives(schedule.num_steps), _schedule.half_lives(num_steps)
    losses = schedule.losses
    count = jnp.maximum(losses.step, 1).astype(jnp.float32)
    order = jnp.argsort(old)  # they fall where the horizon is shorter than the shortest average

    def read(averages: Array) -> Array:
        return jnp.interp(jnp.log(new), jnp.log(old[order]), averages[order])

    means = read(losses.means / -jnp.expm1(-count / old)) * -jnp.expm1(-count / new)
    minima = jnp.where(losses.step == 0, losses.minima, read(losses.minima))
    return schedule._replace(num_steps=num_steps, losses=LossHistory(means, minima, losses.step))


def _nothing(what: str, state: OptState, remedy: str) -> CeloError:
    return CeloError(
        f"there is no {what} in the state, got a {type(state).__name__}; "
        f"pass the state of an optimizer made with {remedy}"
    )
