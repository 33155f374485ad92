"""Persistent Evolution Strategies: unbiased meta-gradients from truncated unrolls.

Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835). Each particle is an antithetic pair of inner problems
run with θ + ε and θ - ε, a fresh ε ~ N(0, σ²) for each truncation. The noise drawn since the problem began
is kept in an accumulator ξ, because earlier noise still acts on later losses:

    gradient = mean over particles of  ξ * mean over steps of (L⁺ - L⁻) / (2 σ²),   ξ the sum of ε

Drawing a fresh ε only every k truncations is GPES (Li et al. 2023, arXiv 2304.12180): unbiased too, and the
sum has fewer terms. With one ε for the whole life of a problem it is NRES there, ES-Single in Vicol et al.
2023 (arXiv 2304.11153).

Both sides of a pair share task, initialisation, horizon and data, also after a reset.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import _tree as tree
from celo._types import Array, Key, Theta
from celo.meta._estimators import antithetic
from celo.meta._estimators.base import Estimate, GradientEstimator, Trajectory, UnrolledProblem


class PESState(NamedTuple):
    """All particles; every leaf has the particle axis first."""

    number: Array  # [particles] int32, which particle this is
    positive: Any  # state of the problems run with θ + ε
    negative: Any  # state of the problems run with θ - ε
    epsilon: Theta  # the noise ε of the last truncation
    earlier: Theta  # ξ - ε: what acted on the present problems before ε was drawn
    used: Array  # [particles] int32, truncations that ε has acted on; 0 calls for fresh noise
    over: Array  # [particles] bool: the problems have ended, new ones follow


WHOLE_LIFE = 2**30  # truncations: longer than any problem


@dataclasses.dataclass(frozen=True)
class PES(GradientEstimator):
    """Persistent Evolution Strategies with antithetic pairs.

    Attributes:
      problem: the inner problems.
      truncation_length: inner steps K in each estimate.
      std: deviation σ of the perturbations.
      noise_truncations: truncations of one problem that share a draw of noise; `WHOLE_LIFE` is NRES.

    Raises:
      CeloError: if a setting is not positive.
    """

    problem: UnrolledProblem
    truncation_length: int = 50
    std: float = 0.01
    noise_truncations: int = 1

    def __post_init__(self):
        antithetic.require_positive(self, "truncation_length", "std", "noise_truncations")

    def init(self, theta: Theta, key: Key, index: Array) -> PESState:
        """Pairs of equal problems, each pair at a random point of its life; no noise accumulated."""
        problems = antithetic.init_problems(self.problem, theta, key, index)
        nothing = jax.tree.map(lambda x: jnp.zeros((*index.shape, *x.shape), jnp.float32), theta)
        none = jnp.zeros(index.shape, jnp.int32)
        return PESState(index, problems, problems, nothing, nothing, none, none > 0)

    def estimate(self, theta: Theta, state: PESState, key: Key) -> tuple[Estimate, PESState]:
        """One truncation of every pair in `state`."""
        estimate, state, _ = self.watch(theta, state, key)
        return estimate, state

    def watch(self, theta: Theta, state: PESState, key: Key) -> tuple[Estimate, PESState, Trajectory]:
        """`estimate`, and what it is made of: trajectories of both sides of each pair, [particles, 2, K]."""

        def draw(pair: PESState) -> tuple[Theta, Theta, Array]:
            """(epsilon, earlier, used) that act on this truncation."""
            redraw = pair.over | (pair.used == 0)
            key_noise, _ = self._keys(key, pair)
            epsilon = jax.lax.cond(
                redraw, lambda: tree.normal_like(key_noise, theta, self.std), lambda: pair.epsilon
            )
            earlier = jax.tree.map(lambda x, e: jnp.where(redraw, x + e, x), pair.earlier, pair.epsilon)
            earlier = jax.tree.map(lambda x: jnp.where(pair.over, 0.0, x), earlier)
            return epsilon, earlier, (jnp.where(redraw, 0, pair.used) + 1) % self.noise_truncations

        def run(pair: PESState, epsilon: Theta) -> tuple[Any, Trajectory]:
            _, key_run = self._keys(key, pair)
            sides = antithetic.both(pair.positive, pair.negative)
            return antithetic.run_sides(self.problem, theta, epsilon, sides, key_run, self.truncation_length)

        # One after another, so that only what is needed is drawn: noise for a large θ is dear.
        epsilon, earlier, used = jax.lax.map(draw, state)
        sides, trajectory = jax.vmap(run)(state, epsilon)
        difference = trajectory.costs[:, 0] - trajectory.costs[:, 1]
        ended = trajectory.ended[:, 0]  # both sides end together
        fresh = antithetic.began_within(ended)
        count = jnp.full(difference.shape[:1], self.truncation_length, jnp.float32)
        shares = _shares(*jax.lax.optimization_barrier((difference, fresh, count)))
        square = antithetic.pair_square(self.std, *zip(shares, (epsilon, earlier), strict=True))
        gradient, earlier = pes_gradient(
            difference, fresh=fresh, count=count, epsilon=epsilon, earlier=earlier, std=self.std
        )
        estimate = antithetic.truncation_estimate(trajectory, gradient, square)
        positive = jax.tree.map(lambda x: x[:, 0], sides)
        negative = jax.tree.map(lambda x: x[:, 1], sides)
        state = PESState(state.number, positive, negative, epsilon, earlier, used, ended[:, -1])
        return estimate, state, trajectory

    def _keys(self, key: Key, pair: PESState) -> tuple[Key, Key]:
        """(for the noise, for the run) of one pair."""
        key_noise, key_run = jax.random.split(jax.random.fold_in(key, pair.number))
        return key_noise, key_run


def pes_gradient(
    difference: Array,
    *,
    fresh: Array,
    count: Array,
    epsilon: Theta,
    earlier: Theta,
    std: float,
) -> tuple[Theta, Theta]:
    """The PES formula (equation 9 of the paper, antithetic form) for N particles over K steps.

    Args:
      difference: L⁺ - L⁻ [N, K], zero at steps that do not count.
      fresh: [N, K] bool, steps of a problem that began within this truncation, on which only this
        truncation's noise acts.
      count: [N], steps that count for each particle.
      epsilon: the noise of this truncation, leaves [N, ...].
      earlier: the sum of the draws that acted on the problem before `epsilon`, leaves [N, ...].
      std: deviation σ of the noise.

    Returns:
      (gradient, earlier): the mean over particles; and `earlier` as it stands for the problem that is
      there at the end, zero for one that began within the truncation.
    """
    all_share, old_share = _shares(difference, fresh, count)

    def one(eps: Array, acc: Array) -> Array:
        weighted = antithetic.expand(all_share, eps) * eps + antithetic.expand(old_share, acc) * acc
        return jnp.mean(weighted, axis=0) / (2.0 * std**2)

    gradient = jax.tree.map(one, epsilon, earlier)
    began = jnp.any(fresh, axis=1)
    return gradient, jax.tree.map(lambda acc: jnp.where(antithetic.expand(began, acc), 0.0, acc), earlier)


def _shares(difference: Array, fresh: Array, count: Array) -> tuple[Array, Array]:
    """Mean differences [N] that this truncation's noise, and that earlier noise, had a hand in."""
    all_share = jnp.sum(difference, axis=1) / count
    return all_share, jnp.sum(jnp.where(fresh, 0.0, difference), axis=1) / count
