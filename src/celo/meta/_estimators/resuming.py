"""A resume buffer: new problems begin where earlier ones ended well, and lives grow longer at no cost.

Huang et al. 2026 (ELO, arXiv 2607.06772). Each pair keeps the last states in which its problems ended with
finite losses, both sides and the noise that has acted on them. Where a pair would begin a new problem, it
takes one of them up again instead, with a fresh horizon added to the steps that are behind it.

What is taken up depends on noise that was drawn long ago. So the sum of it comes along with the problem, and
the estimate stays unbiased: to PES the problem has never ended. Without that sum the past would count as
given, as in truncated ES.

Published, a state is also kept when losses have risen, in the middle of a life. Here only at its end.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo import _tree as tree
from celo._errors import CeloError
from celo._types import Array, Key, Theta
from celo.meta._estimators import antithetic
from celo.meta._estimators.base import Estimate, GradientEstimator, Trajectory
from celo.meta._estimators.pes import PES, PESState


class ResumingState(NamedTuple):
    """All particles; every leaf has the particle axis first."""

    number: Array  # [particles] int32, which particle this is
    pairs: PESState
    slots: PESState  # pairs as they ended, leaves [particles, slots, ...]
    kept: Array  # [particles] int32, pairs kept so far; the next replaces the oldest, in slot kept % slots


@dataclasses.dataclass(frozen=True)
class Resuming(GradientEstimator):
    """PES, or NRES, on problems that are taken up again after their end.

    Attributes:
      estimator: what estimates.
      slots: states that each pair keeps, first in, first out.
      share: of new problems that begin from a kept state, chosen among all, once there is one.

    Raises:
      CeloError: if the estimator has no noise to keep, there is no slot, or the share is not in (0, 1].
    """

    estimator: PES
    slots: int = 1
    share: float = 0.8

    def __post_init__(self):
        if not isinstance(self.estimator, PES):
            raise CeloError(
                f"Resuming needs an estimator that keeps the noise of a problem, PES, got {self.estimator!r}"
            )
        antithetic.require_positive(self, "slots", "share")
        if self.share > 1:
            raise CeloError(f"Resuming needs a share of at most 1, got {self.share}")

    def init(self, theta: Theta, key: Key, index: Array) -> ResumingState:
        """Pairs of PES, and empty slots."""
        pairs = self.estimator.init(theta, key, index)
        slots = jax.tree.map(lambda x: jnp.repeat(x[:, None], self.slots, axis=1), pairs)
        return ResumingState(index, pairs, slots, jnp.zeros(index.shape, jnp.int32))

    def estimate(self, theta: Theta, state: ResumingState, key: Key) -> tuple[Estimate, ResumingState]:
        """One truncation of every pair in `state`."""
        key_begin, key_estimate = jax.random.split(key)

        def begin(pair: PESState, slots: PESState, kept: Array) -> PESState:
            key_whether, key_slot, key_length = jax.random.split(
                jax.random.fold_in(key_begin, pair.number), 3
            )
            slot = jax.random.randint(key_slot, (), 0, jnp.clip(kept, 1, self.slots))
            resumes = pair.over & (kept > 0) & (jax.random.uniform(key_whether) < self.share)
            found = jax.tree.map(lambda x: x[slot], slots)
            prolong = self.estimator.problem.prolong
            found = found._replace(
                positive=prolong(found.positive, key_length),
                negative=prolong(found.negative, key_length),
                used=jnp.zeros_like(found.used),  # fresh noise, which adds to what has acted before
                over=jnp.zeros_like(found.over),
            )
            return tree.where(resumes, found, pair)

        pairs = jax.vmap(begin)(state.pairs, state.slots, state.kept)
        estimate, pairs, trajectory = self.estimator.watch(theta, pairs, key_estimate)
        keeps = pairs.over & _went_well(trajectory)

        def keep(slots: Any, pair: Any, at: Array, keeps: Array) -> Any:
            return jax.tree.map(lambda s, x: s.at[at].set(jnp.where(keeps, x, s[at])), slots, pair)

        slots = jax.vmap(keep)(state.slots, pairs, state.kept % self.slots, keeps)
        return estimate, ResumingState(state.number, pairs, slots, state.kept + keeps)


def _went_well(trajectory: Trajectory) -> Array:
    """[particles] bool: all losses were finite, and not all of them cut off, so that no side is ahead."""
    finite = ~jnp.any(trajectory.nonfinite, axis=(1, 2))
    return finite & jnp.any(trajectory.costs[:, 0] != trajectory.costs[:, 1], axis=1)
