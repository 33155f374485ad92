"""The scheduler's first lesson: to say, from time and losses, the decay that the rule was trained under.

An evolution strategy finds the shape of a schedule slowly: after thousands of outer steps from fresh weights
the learned step still ended at a tenth of its peak (results/LOG.md). But that a step should decay needs no
discovery. So inner trainings of the finished rule under its linear decay are recorded once, and the
scheduler is fitted to that decay by back-propagation through its recurrence, in a minute or two. Phase 2
begins there instead of at random, and has only to learn what is better than a straight line.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._types import Array, Key, Theta
from celo.meta._unroll import Unroll
from celo.optimizers import _schedule as scheduler
from celo.optimizers._decayed import DecayedRule, horizon_scale, linear_decay
from celo.tasks._base import TaskFamily

LEARNING_RATE = 3e-3
BATCH = 16  # recorded trainings in one step
FLOOR = 0.01  # the decay is followed down to here: what comes below moves nothing
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
    kernel: str = "xla",
) -> Recording:
    """What the scheduler would see while the rule trains under its linear decay.

    Args:
      theta: its rule is used.
      families: of tasks; `rows` rows for each of their kinds.
      key: of tasks, horizons and data.
      rows: for each kind of task.
      horizon_min: as in `Unroll`, with the three others.
      horizon_max: also the length of a row, in whole truncations.
      horizon_power: how rare long ones are.
      truncation_length: inner steps.
      kernel: of the update rule.
    """
    truncations = -(-horizon_max // truncation_length)

    def row(unroll: Unroll, key: Key, index: Array) -> Recording:
        key_start, key_horizon, key_run = jax.random.split(jax.random.fold_in(key, index), 3)

        def truncation(state, key):
            state, seen = unroll.run(theta, state, key, truncation_length)
            steps = state.step - truncation_length + jnp.arange(truncation_length)
            return state, Recording(seen.losses, steps, jnp.full_like(steps, state.num_steps))

        start = unroll.start(theta, key_start, index, key_horizon)
        _, found = jax.lax.scan(truncation, start, jax.random.split(key_run, truncations))
        return Recording._make(x.reshape(-1) for x in found)

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
    tell: Callable[[int, float], None] = lambda step, error: None,
) -> dict[str, Array]:
    """Scheduler weights whose step follows the linear decay on the recorded trainings.

    Args:
      schedule: the scheduler's weights to begin from.
      seen: what it is shown.
      key: chooses the rows of each step.
      steps: of Adam, along a cosine to zero.
      tell: called now and then with the steps done and the error: root mean square of the difference of
        logarithms.
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
            found, grads = jax.value_and_grad(error)(schedule, jax.tree.map(lambda x: x[chosen], seen))
            updates, state = optimizer.update(grads, state, schedule)
            return (optax.apply_updates(schedule, updates), state), found

        # Beyond the last step the rate is zero: calls of one length need one compilation.
        carry, errors = jax.lax.scan(one, (schedule, state), first + jnp.arange(STEPS_PER_CALL))
        return *carry, jnp.sqrt(errors.mean())

    state = optimizer.init(schedule)
    for first in range(0, steps, STEPS_PER_CALL):
        schedule, state, found = several(schedule, state, first)
        tell(min(first + STEPS_PER_CALL, steps), float(found))
    return schedule
