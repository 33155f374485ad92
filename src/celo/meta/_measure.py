"""The meta-loss of finished weights: what the last rows of a run say, but without perturbations."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo._types import Array, Key, Theta
from celo.meta._objective import Objective
from celo.meta._phases import kinds_of, phases, task_families
from celo.meta._recipes import Recipe
from celo.meta._unroll import Unroll

TRUNCATIONS = 4  # for which each problem is watched


class Measured(NamedTuple):
    """Means over problems at random points of their lives.

    Attributes:
      meta_loss: mean cost under the recipe's objective.
      standard_error: of the meta-loss.
      task_losses: kind of task -> mean training loss.
    """

    meta_loss: float
    standard_error: float
    task_losses: dict[str, float]


def measure(
    theta: Theta, recipe: Recipe, *, kernel: str = "auto", problems: int = 16, seed: int = 1
) -> Measured:
    """The meta-loss of θ on the tasks, horizons and objective of the recipe's last phase.

    Args:
      theta: weights of the whole optimizer.
      recipe: usually the one the weights were trained by.
      kernel: "auto", "native" or "xla", as in `celo.optimizers.UpdateRule`.
      problems: of each kind of task.
      seed: of tasks and data; the run itself used other keys.

    Raises:
      CeloError: if the recipe's tasks or the kernel are not available here.
    """
    phase = phases(recipe)[-1]
    families, costs, losses = task_families(recipe, phase), [], []
    for number, family in enumerate(families):
        problem = Unroll(
            family=family,
            optimizer=phase.optimizer(kernel=kernel),
            truncation_length=recipe.truncation_length,
            horizon_min=recipe.horizon_min,
            horizon_max=recipe.horizon_max,
            horizon_power=recipe.horizon_power,
            objective=Objective(recipe.objective, recipe.lateness),
        )

        def watch(key: Key, index: Array, problem: Unroll = problem) -> tuple[Array, Array]:
            key_init, key_run = jax.random.split(jax.random.fold_in(key, index))
            state = problem.init(theta, key_init, index)
            seen = [jnp.zeros(()), jnp.zeros(())]
            for key_now in jax.random.split(key_run, TRUNCATIONS):
                state, trajectory = problem.run(theta, state, key_now, problem.truncation_length)
                seen = [
                    a + x.mean() for a, x in zip(seen, (trajectory.costs, trajectory.losses), strict=True)
                ]
            return seen[0] / TRUNCATIONS, seen[1] / TRUNCATIONS

        kinds = len(family.members)
        key = jax.random.fold_in(jax.random.key(seed), number)
        cost, loss = jax.jit(jax.vmap(watch, in_axes=(None, 0)))(key, jnp.arange(problems * kinds))
        costs.append(np.asarray(cost))
        losses += np.asarray(loss).reshape(problems, kinds).mean(axis=0).tolist()
    every = np.concatenate(costs)
    error = float(every.std(ddof=1) / np.sqrt(len(every)))
    return Measured(float(every.mean()), error, dict(zip(kinds_of(families), losses, strict=True)))
