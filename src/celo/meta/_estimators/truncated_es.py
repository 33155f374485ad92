"""Truncated ES: evolution strategies on one truncation at a time. Cheap, calm, and biased.

The estimator that PES set out to mend (Vicol et al. 2021, arXiv 2112.13835). Both sides of a pair start each
truncation from one and the same state, and

    gradient = mean over particles of  ε * mean over steps of (L⁺ - L⁻) / (2 σ²),   ε fresh each truncation

The state is taken as given, though it too depends on θ: what a weight does to losses beyond the truncation
is not seen. Only where problems are a single truncation long is this the gradient of the meta-loss.

The problem goes on from where θ + ε has brought it: that costs nothing, a third run under θ itself would cost
half as much again, and the next ε knows nothing of this one.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import _tree as tree
from celo._types import Array, Key, Theta
from celo.meta._estimators import antithetic
from celo.meta._estimators.base import Estimate, GradientEstimator, UnrolledProblem


class TruncatedESState(NamedTuple):
    """All particles; every leaf has the particle axis first."""

    number: Array  # [particles] int32, which particle this is
    problem: Any  # state that both sides start from


@dataclasses.dataclass(frozen=True)
class TruncatedES(GradientEstimator):
    """Evolution strategies within truncations, with antithetic pairs.

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
        antithetic.require_positive(self, "truncation_length", "std")

    def init(self, theta: Theta, key: Key, index: Array) -> TruncatedESState:
        """Problems at random points of their lives."""
        return TruncatedESState(index, antithetic.init_problems(self.problem, theta, key, index))

    def estimate(self, theta: Theta, state: TruncatedESState, key: Key) -> tuple[Estimate, TruncatedESState]:
        """One truncation of every pair in `state`."""

        def particle(number: Array, problem: Any) -> tuple:
            key_noise, key_run = jax.random.split(jax.random.fold_in(key, number))
            epsilon = tree.normal_like(key_noise, theta, self.std)
            sides, trajectory = antithetic.run_sides(
                self.problem,
                theta,
                epsilon,
                antithetic.both(problem, problem),
                key_run,
                self.truncation_length,
            )
            return epsilon, jax.tree.map(lambda x: x[0], sides), trajectory

        epsilon, problem, trajectory = jax.vmap(particle)(*state)
        difference = jnp.mean(trajectory.costs[:, 0] - trajectory.costs[:, 1], axis=1)
        gradient = antithetic.es_gradient(epsilon, difference, self.std)
        square = antithetic.pair_square(self.std, (difference, epsilon))
        estimate = antithetic.truncation_estimate(trajectory, gradient, square)
        return estimate, TruncatedESState(state.number, problem)
