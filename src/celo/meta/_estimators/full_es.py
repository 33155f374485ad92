"""Full ES: evolution strategies on whole inner trainings.

Each estimate runs every pair from a fresh start to its end, with one ε for the whole life:

    gradient = mean over particles of  ε (F⁺ - F⁻) / (2 σ²)

F is the mean cost of the life, or its final cost: the mean over the last truncation, one step's loss being
mostly noise of its batch. Unbiased, and the only estimator here that can aim at the final loss and whose
inner trainings see one θ from beginning to end; but θ moves once where truncations would have moved it
horizon / K times.

All particles of one estimate share a horizon, drawn anew for each estimate, so that none waits for another:
the cost is 2 * particles * horizon inner steps. Every horizon counts equally, whereas estimators that work
by truncations count every step equally and so long problems more.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import _tree as tree
from celo._types import Array, Key, Theta
from celo.meta._estimators import antithetic
from celo.meta._estimators.base import Estimate, GradientEstimator, UnrolledProblem


class FullESState(NamedTuple):
    """No problem outlives an estimate."""

    number: Array  # [particles] int32, which particle this is


class _Lives(NamedTuple):
    """Lives of all particles N, some truncations after their start."""

    sides: Any  # problems, leaves [N, 2, ...]
    over: Array  # [N] bool: the life has ended, what `sides` does now counts no more
    total: Array  # [N, 2], sum of the costs so far
    latest: Array  # [N, 2], mean cost of the life's latest truncation
    losses: Array  # [N, 2], sum of the losses so far
    nonfinite: Array  # [N], steps of both sides whose loss was not finite
    steps: Array  # [N] float32, steps each side has lived
    truncations: Array  # int32 scalar, truncations run


@dataclasses.dataclass(frozen=True)
class FullES(GradientEstimator):
    """Evolution strategies on whole inner trainings, with antithetic pairs.

    Attributes:
      problem: the inner problems.
      truncation_length: inner steps K between two looks at who has ended, and those of the final loss.
      std: deviation σ of the perturbations.
      final: lower the final cost, not the mean one.

    Raises:
      CeloError: if a setting is not positive.
    """

    problem: UnrolledProblem
    truncation_length: int = 50
    std: float = 0.01
    final: bool = False

    def __post_init__(self):
        antithetic.require_positive(self, "truncation_length", "std")

    def init(self, theta: Theta, key: Key, index: Array) -> FullESState:
        """Nothing but the particles' numbers."""
        del theta, key
        return FullESState(index)

    def estimate(self, theta: Theta, state: FullESState, key: Key) -> tuple[Estimate, FullESState]:
        """One whole life of every pair in `state`."""
        key_horizon, key_particles = jax.random.split(key)

        def begin(number: Array) -> tuple[Theta, Any, Key]:
            key_noise, key_start, key_run = jax.random.split(jax.random.fold_in(key_particles, number), 3)
            epsilon = tree.normal_like(key_noise, theta, self.std)
            start = jax.vmap(self.problem.start, in_axes=(0, None, None, None))
            sides = start(antithetic.both_thetas(theta, epsilon), key_start, number, key_horizon)
            return epsilon, sides, key_run

        epsilon, sides, keys = jax.vmap(begin)(state.number)
        lives = self._live(theta, epsilon, sides, keys)
        costs = lives.latest if self.final else lives.total / lives.steps[:, None]
        difference = costs[:, 0] - costs[:, 1]
        estimate = Estimate(
            meta_loss=jnp.mean(costs),
            gradient=antithetic.es_gradient(epsilon, difference, self.std),
            particle_losses=jnp.mean(lives.losses, axis=1) / lives.steps,
            nonfinite=jnp.sum(lives.nonfinite) / (2.0 * jnp.sum(lives.steps)),
            inner_steps=2.0 * len(keys) * self.truncation_length * lives.truncations.astype(jnp.float32),
            pair_square=antithetic.pair_square(self.std, (difference, epsilon)),
        )
        return estimate, state

    def _live(self, theta: Theta, epsilon: Theta, sides: Any, keys: Key) -> _Lives:
        """Runs all particles until the last has ended; keys [N]."""

        def truncation(lives: _Lives) -> _Lives:
            def particle(epsilon: Theta, sides: Any, key: Key) -> tuple:
                key = jax.random.fold_in(key, lives.truncations)
                return antithetic.run_sides(self.problem, theta, epsilon, sides, key, self.truncation_length)

            sides, seen = jax.vmap(particle)(epsilon, lives.sides, keys)
            ended = seen.ended[:, 0]  # both sides end together
            counts = ~lives.over[:, None] & ~antithetic.began_within(ended)
            steps = jnp.sum(counts, axis=1, dtype=jnp.float32)
            summed = jnp.sum(jnp.where(counts[:, None], seen.costs, 0.0), axis=2)
            losses = jnp.sum(jnp.where(counts[:, None], seen.losses, 0.0), axis=2)
            nonfinite = jnp.sum(counts[:, None] & seen.nonfinite, axis=(1, 2), dtype=jnp.float32)
            return _Lives(
                sides=sides,
                over=lives.over | jnp.any(ended, axis=1),
                total=lives.total + summed,
                latest=jnp.where(
                    lives.over[:, None], lives.latest, summed / jnp.maximum(steps, 1.0)[:, None]
                ),
                losses=lives.losses + losses,
                nonfinite=lives.nonfinite + nonfinite,
                steps=lives.steps + steps,
                truncations=lives.truncations + 1,
            )

        none = jnp.zeros(keys.shape, jnp.float32)
        twice = jnp.zeros((*keys.shape, 2), jnp.float32)
        lives = _Lives(sides, none > 0, twice, twice, twice, none, none, jnp.zeros((), jnp.int32))
        return jax.lax.while_loop(lambda lives: ~jnp.all(lives.over), truncation, lives)
