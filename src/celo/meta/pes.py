"""Persistent Evolution Strategies: unbiased meta-gradients from truncated unrolls.

Vicol, Metz & Sohl-Dickstein 2021 (arXiv 2112.13835). Each particle is an antithetic pair of inner problems
run with θ + ε and θ - ε, a fresh ε ~ N(0, σ²) for each truncation. The noise of the truncations since the
problem began is kept in an accumulator ξ, because earlier noise still acts on later losses:

    gradient = mean over particles of  ξ * mean over steps of (L⁺ - L⁻) / (2 σ²),   ξ the sum of ε

Both sides of a pair share task, initialisation, horizon and data, also after a reset.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import tree
from celo.errors import CeloError
from celo.meta.estimator import Estimate, GradientEstimator, UnrolledProblem
from celo.types import Array, Key, Theta


class PESState(NamedTuple):
    """All particles; every leaf has the particle axis first."""

    number: Array  # [particles] int32, which particle this is
    positive: Any  # state of the problems run with θ + ε
    negative: Any  # state of the problems run with θ - ε
    accumulator: Theta  # ξ before this truncation: noise since the present problems began


@dataclasses.dataclass(frozen=True)
class PES(GradientEstimator):
    """Persistent Evolution Strategies with antithetic pairs.

    Attributes:
      problem: the inner problems.
      truncation_length: inner steps K in each estimate.
      std: deviation σ of the perturbations.

    Raises:
      CeloError: if a setting is not positive.
    """

    problem: UnrolledProblem
    truncation_length: int = 50
    std: float = 0.01

    def __post_init__(self):
        for name in ("truncation_length", "std"):
            if not getattr(self, name) > 0:
                raise CeloError(f"PES needs a positive {name}, got {getattr(self, name)}")

    def init(self, theta: Theta, key: Key, index: Array) -> PESState:
        """Pairs of equal problems, each pair at a random point of its life; no noise accumulated."""

        def particle(index: Array) -> Any:
            return self.problem.init(theta, jax.random.fold_in(key, index), index)

        problems = jax.vmap(particle)(index)
        accumulator = jax.tree.map(lambda x: jnp.zeros((*index.shape, *x.shape), jnp.float32), theta)
        return PESState(index, problems, problems, accumulator)

    def estimate(self, theta: Theta, state: PESState, key: Key) -> tuple[Estimate, PESState]:
        """One truncation of every pair in `state`."""

        def particle(index: Array, positive: Any, negative: Any) -> tuple:
            key_noise, key_run = jax.random.split(jax.random.fold_in(key, index))
            epsilon = tree.normal_like(key_noise, theta, self.std)
            thetas = jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, epsilon)
            sides = jax.tree.map(lambda p, n: jnp.stack([p, n]), positive, negative)
            sides, trajectory = jax.vmap(self.problem.run, in_axes=(0, 0, None, None))(
                thetas, sides, key_run, self.truncation_length
            )
            return epsilon, sides, trajectory

        epsilon, sides, trajectory = jax.vmap(particle)(state.number, state.positive, state.negative)
        difference = trajectory.losses[:, 0] - trajectory.losses[:, 1]
        ended = trajectory.ended[:, 0]  # both sides end together
        ends = jnp.cumsum(ended, axis=1)
        gradient, accumulator = pes_gradient(
            difference,
            fresh=ends - ended.astype(jnp.int32) > 0,
            count=jnp.full(difference.shape[:1], self.truncation_length, jnp.float32),
            epsilon=epsilon,
            accumulator=state.accumulator,
            std=self.std,
        )
        at_start = ended[:, -1]
        accumulator = jax.tree.map(lambda a: jnp.where(_expand(at_start, a), 0.0, a), accumulator)
        particle_losses = jnp.mean(trajectory.losses, axis=(1, 2))
        estimate = Estimate(
            meta_loss=jnp.mean(particle_losses),
            gradient=gradient,
            particle_losses=particle_losses,
            nonfinite=jnp.mean(trajectory.nonfinite, dtype=jnp.float32),
        )
        positive = jax.tree.map(lambda x: x[:, 0], sides)
        negative = jax.tree.map(lambda x: x[:, 1], sides)
        return estimate, PESState(state.number, positive, negative, accumulator)


def pes_gradient(
    difference: Array,
    *,
    fresh: Array,
    count: Array,
    epsilon: Theta,
    accumulator: Theta,
    std: float,
) -> tuple[Theta, Theta]:
    """The PES formula (equation 9 of the paper, antithetic form) for N particles over K steps.

    Args:
      difference: L⁺ - L⁻ [N, K], zero at steps that do not count.
      fresh: [N, K] bool, steps of a problem that began within this truncation, on which only this
        truncation's noise acts.
      count: [N], steps that count for each particle.
      epsilon: this truncation's noise, leaves [N, ...].
      accumulator: noise of the problem's earlier truncations, leaves [N, ...].
      std: deviation σ of the noise.

    Returns:
      (gradient, accumulator): the mean over particles, and the noise that acts on the next truncation.
    """
    old_share = jnp.sum(jnp.where(fresh, 0.0, difference), axis=1) / count
    all_share = jnp.sum(difference, axis=1) / count

    def one(eps: Array, acc: Array) -> Array:
        weighted = _expand(all_share, eps) * eps + _expand(old_share, acc) * acc
        return jnp.mean(weighted, axis=0) / (2.0 * std**2)

    gradient = jax.tree.map(one, epsilon, accumulator)
    began = jnp.any(fresh, axis=1)
    accumulator = jax.tree.map(
        lambda eps, acc: jnp.where(_expand(began, eps), eps, acc + eps), epsilon, accumulator
    )
    return gradient, accumulator


def _expand(per_particle: Array, like: Array) -> Array:
    """[N] -> [N, 1, …] with as many axes as `like`."""
    return per_particle.reshape(per_particle.shape + (1,) * (like.ndim - 1))
