"""Imitation: the scheduler learns, by back-propagation, the decay that the rule was trained under.

An evolution strategy finds the shape of a schedule slowly: after thousands of outer steps from fresh weights
the learned step size still ended at a tenth of its peak (results/LOG.md). That a step should decay need not
be rediscovered. So some inner trainings of the finished rule under its linear decay are recorded, and the
scheduler is fitted to that decay by back-propagation through its recurrence, in a minute or two. Phase 2
starts from there instead of from random weights, and only has to improve on a straight line.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._types import Array, Key, Progress, Theta
from celo.meta._unroll import Unroll
from celo.optimizers import _schedule as scheduler
from celo.optimizers._decayed_rule import DecayedRule, horizon_scale, linear_decay
from celo.tasks._base import TaskFamily

LEARNING_RATE = 3e-3
BATCH = 16  # recorded trainings in one step
FLOOR = 0.01  # the decay is followed down to here: smaller steps change next to nothing
STEPS_PER_CALL = 10


class Recording(NamedTuple):
    """Inner trainings, one after another in each row; all arrays are [rows, steps]."""

    losses: Array
    steps: Array  # int32, 0 at the beginning of each training
    num_steps: Array  # int32, its horizon


def record(
    theta: Theta,
    families: Sequence[TaskFamily],
    key: Key,
    *,
    rows: int,
    horizon_min: int,
    horizon_max: int,
    horizon_power: float,
    truncation_length: int,
    kernel: str = "auto",
) -> Recording:
    """What the scheduler would see while the rule trains under its linear decay.

    Args:
      theta: weights; only those of the rule are used.
      families: of tasks.
      key: decides tasks, horizons and data.
      rows: for each kind of task.
      horizon_min: as in `Unroll`, like the next three.
      horizon_max: also the length of a row, rounded up to whole truncations.
      horizon_power: how rare long horizons are.
      truncation_length: inner steps.
      kernel: as in `UpdateRule`.
    """
    truncations = -(-horizon_max // truncation_length)

    def row(unroll: Unroll, key: Key, index: Array) -> Recording:
        key_start, key_horizon, key_run = jax.random.split(jax.random.fold_in(key, index), 3)

        def truncation(state, key):
            state, seen = unroll.run(theta, state, key, truncation_length)
            steps = state.step - truncation_length + jnp.arange(truncation_length)
            return state, Recording(seen.losses, steps, jnp.full_like(steps, state.num_steps))

        start = unroll.start(theta, key_start, index, key_horizon)
        _, parts = jax.lax.scan(truncation, start, jax.random.split(key_run, truncations))
        return Recording._make(x.reshape(-1) for x in parts)

    parts = []
    for number, family in enumerate(families):
        unroll = Unroll(
            family, DecayedRule(kernel), truncation_length, horizon_min, horizon_max, horizon_power
        )
        of_family = jax.jit(jax.vmap(lambda key, index, unroll=unroll: row(unroll, key, index), (None, 0)))
        indices = jnp.arange(rows * len(family.members), dtype=jnp.int32)
        parts.append(of_family(jax.random.fold_in(key, number), indices))
    return jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def imitate(
    schedule: dict[str, Array],
    seen: Recording,
    key: Key,
    *,
    steps: int,
    progress: Progress | None = None,
) -> dict[str, Array]:
    """Scheduler weights whose step size follows the linear decay on the recorded trainings.

    Args:
      schedule: the scheduler's weights to start from.
      seen: what it is shown.
      key: chooses the rows of each step.
      steps: of Adam, its rate along a cosine to zero.
      progress: told the steps done, with the error (root mean square of the difference of logarithms).
    """
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, max(1, steps)))
    )

    def error(schedule: dict[str, Array], rows: Recording) -> Array:
        def moment(state: scheduler.ScheduleState, now: Recording) -> tuple[scheduler.ScheduleState, Array]:
            fresh = scheduler.init(schedule, now.num_steps)
            state = jax.tree.map(lambda new, old: jnp.where(now.steps == 0, new, old), fresh, state)
            eta, state = scheduler.advance(schedule, state, now.losses)
            wanted = jnp.maximum(linear_decay(now.steps, now.num_steps), FLOOR) * horizon_scale(now.num_steps)
            return state, jnp.square(jnp.log(eta) - jnp.log(wanted))

        def of_row(row: Recording) -> Array:
            start = scheduler.init(schedule, row.num_steps[0])
            return jnp.mean(jax.lax.scan(moment, start, row)[1])

        return jnp.mean(jax.vmap(of_row)(rows))

    @jax.jit
    def several(schedule, state, first):
        def one(carry, step):
            schedule, state = carry
            chosen = jax.random.choice(
                jax.random.fold_in(key, step),
                len(seen.losses),
                (min(BATCH, len(seen.losses)),),
                replace=False,
            )
            squared, grads = jax.value_and_grad(error)(schedule, jax.tree.map(lambda x: x[chosen], seen))
            updates, state = optimizer.update(grads, state, schedule)
            return (optax.apply_updates(schedule, updates), state), squared

        # The last call may go beyond the last step, where the rate is zero: equal calls compile once.
        carry, errors = jax.lax.scan(one, (schedule, state), first + jnp.arange(STEPS_PER_CALL))
        return *carry, jnp.sqrt(errors.mean())

    state = optimizer.init(schedule)
    for first in range(0, steps, STEPS_PER_CALL):
        schedule, state, deviation = several(schedule, state, first)
        if progress is not None:
            progress("imitation", min(first + STEPS_PER_CALL, steps), steps, f"error {float(deviation):.4f}")
    return schedule
