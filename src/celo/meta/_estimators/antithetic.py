"""Antithetic pairs: what the evolution strategies share.

Each particle is a pair of equal inner problems, one run with θ + ε, the other with θ - ε, ε ~ N(0, σ²).
Both sides share task, initialisation, horizon and data, so that the difference of their losses is all ε's
doing. Axes come in this order: particle [N], side [2] (plus, minus), step [K].
"""

import math
from typing import Any

import jax
import jax.numpy as jnp

from celo._errors import CeloError
from celo._types import Array, Key, Theta
from celo.meta._estimators.base import Estimate, Trajectory, UnrolledProblem


def require_positive(estimator: Any, *names: str) -> None:
    """Raises CeloError if a setting of the estimator is not positive."""
    for name in names:
        if not getattr(estimator, name) > 0:
            raise CeloError(
                f"{type(estimator).__name__} needs a positive {name}, got {getattr(estimator, name)}"
            )


def init_problems(problem: UnrolledProblem, theta: Theta, key: Key, index: Array) -> Any:
    """One problem for each particle number in `index` [N], each at a random point of its life."""

    def particle(index: Array) -> Any:
        return problem.init(theta, jax.random.fold_in(key, index), index)

    return jax.vmap(particle)(index)


def both_thetas(theta: Theta, epsilon: Theta) -> Theta:
    """θ + ε and θ - ε of one particle, leaves [2, ...]."""
    return jax.tree.map(lambda t, e: jnp.stack([t + e, t - e]), theta, epsilon)


def both(plus: Any, minus: Any) -> Any:
    """The two sides of one particle as one pytree, leaves [2, ...]."""
    return jax.tree.map(lambda p, m: jnp.stack([p, m]), plus, minus)


def run_sides(
    problem: UnrolledProblem, theta: Theta, epsilon: Theta, sides: Any, key: Key, length: int
) -> tuple[Any, Trajectory]:
    """Both sides (leaves [2, ...]) of one particle `length` steps on, under θ + ε and θ - ε."""
    run = jax.vmap(problem.run, in_axes=(0, 0, None, None))
    return run(both_thetas(theta, epsilon), sides, key, length)


def began_within(ended: Array) -> Array:
    """[N, K] bool -> [N, K] bool: steps of problems that began after another's end in this truncation."""
    return jnp.cumsum(ended, axis=1) - ended.astype(jnp.int32) > 0


def es_gradient(epsilon: Theta, difference: Array, std: float) -> Theta:
    """Mean over particles of ε (L⁺ - L⁻) / (2 σ²); `epsilon` has leaves [N, ...], `difference` is [N]."""

    def one(eps: Array) -> Array:
        return jnp.mean(expand(difference, eps) * eps, axis=0) / (2.0 * std**2)

    return jax.tree.map(one, epsilon)


def pair_square(std: float, *sums: tuple[Array, Theta]) -> Array:
    """Mean over particles of the squared norm of what each would say alone: signal and noise together.

    Args:
      std: deviation σ of the noise.
      sums: (difference [N], noise with leaves [N, ...]); a particle's estimate is the sum of their products,
        over 2 σ².
    """
    # Behind a barrier, so that it changes nothing in how the gradient beside it is compiled, and rounded.
    (difference, noise), *more = jax.lax.optimization_barrier(sums)

    def one(eps: Array, *others: Array) -> Array:
        total = expand(difference, eps) * eps
        for (weight, _), other in zip(more, others, strict=True):
            total += expand(weight, other) * other
        return jnp.sum(jnp.square(total))

    squares = jax.tree.leaves(jax.tree.map(one, noise, *(other for _, other in more)))
    return sum(squares, jnp.zeros(())) / (len(difference) * (2.0 * std**2) ** 2)


def truncation_estimate(trajectory: Trajectory, gradient: Theta, square: Any = math.nan) -> Estimate:
    """The estimate from one truncation of every particle, of which every step counts."""
    return Estimate(
        meta_loss=jnp.mean(trajectory.costs),
        gradient=gradient,
        particle_losses=jnp.mean(trajectory.losses, axis=(1, 2)),
        nonfinite=jnp.mean(trajectory.nonfinite, dtype=jnp.float32),
        inner_steps=jnp.full((), trajectory.losses.size, jnp.float32),
        pair_square=square,
    )


def expand(per_particle: Array, like: Array) -> Array:
    """[N] -> [N, 1, …] with as many axes as `like`."""
    return per_particle.reshape(per_particle.shape + (1,) * (like.ndim - 1))
