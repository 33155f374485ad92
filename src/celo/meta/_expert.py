"""Teacher forcing: a hand-made expert takes part in the inner steps while θ is young.

Huang et al. 2026 (ELO, arXiv 2607.06772). Fresh weights θ train badly: what they show of long trainings are
ruins. With an expert's share s an inner step is (1 - s) * learned + s * expert, and its cost

    (1 - s) * cost of the loss  +  s * distance of the learned step from the expert's

so that at s = 1 θ imitates the expert in states that the expert has led to, and at s = 0 nothing of it is
left. The distance is the mean over tensors of 0.7 (1 - cosine) + 0.3 |log of the ratio of lengths|.

Published, the expert is Muon or AdamW, lengths are compared by L1 norms, and both distances are normalised by
their mean squares over particles.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo import _tree as tree
from celo._errors import CeloError
from celo._kernels.statistics import finite_gradient
from celo._types import Array, Params, Updates

DIRECTION, LENGTH = 0.7, 0.3  # weights of both parts of the distance
LARGEST_RATIO = 1_000.0  # of lengths: beyond it they are equally wrong
_TINY = 1e-20  # a length that counts as none


@dataclasses.dataclass(frozen=True)
class Expert:
    """Adam under a cosine, with steps in proportion to a tensor's size, as learned ones are.

    Attributes:
      share: of inner steps, from 0 to 1; a number, or a traced scalar.
      learning_rate: at the start of an inner training, relative to a tensor's root mean square; 0 at its end.

    Raises:
      CeloError: if the learning rate is not positive.
    """

    share: Array | float
    learning_rate: float = 0.01

    def __post_init__(self):
        if not self.learning_rate > 0:
            raise CeloError(f"Expert needs a positive learning_rate, got {self.learning_rate}")

    def init(self, params: Params) -> optax.OptState:
        """The expert's state before the first step."""
        return _adam().init(_float32(params))

    def force(
        self, learned: Updates, grads: Updates, state: optax.OptState, params: Params, passed: Array
    ) -> tuple[Updates, Array, optax.OptState]:
        """One step with the expert's share in it.

        Args:
          learned: the step of the learned optimizer, a pytree like `params`.
          grads: what the expert sees.
          state: the expert's.
          params: the current parameters.
          passed: float32 scalar, the fraction of the training that has passed, from 0 to 1.

        Returns:
          (updates, distance, state): the step to take; and how far `learned` is from the expert's step.
        """
        steps, state = _adam().update(jax.tree.map(finite_gradient, grads), state, _float32(params))
        steps = tree.scaled(steps, -0.5 * self.learning_rate * (1.0 + jnp.cos(jnp.pi * passed)))
        steps = jax.tree.map(lambda step, like: step.astype(like.dtype), steps, learned)
        share = jnp.asarray(self.share, jnp.float32)
        mixed = jax.tree.map(jnp.add, tree.scaled(learned, 1.0 - share), tree.scaled(steps, share))
        return tree.where(share > 0, mixed, learned), _distance(learned, steps), state

    def cost(self, cost: Array, distance: Array) -> Array:
        """The cost of a step, of which the loss has only what the expert leaves to it."""
        share = jnp.asarray(self.share, jnp.float32)
        return jnp.where(share > 0, (1.0 - share) * cost + share * distance, cost)


def _adam() -> optax.GradientTransformation:
    return optax.chain(optax.scale_by_adam(), optax.scale_by_param_block_rms())


def _float32(params: Params) -> Params:
    return jax.tree.map(lambda p: p.astype(jnp.float32), params)


def _distance(learned: Updates, expert: Updates) -> Array:
    """Mean over tensors of the distance between two steps; finite, float32."""

    def length(step: Any) -> Array:
        return jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(step.astype(jnp.float32)))), _TINY)

    def one(a: Any, b: Any) -> Array:
        cosine = jnp.sum(a.astype(jnp.float32) / length(a) * (b.astype(jnp.float32) / length(b)))
        ratio = jnp.minimum(jnp.abs(jnp.log(length(a) / length(b))), jnp.log(LARGEST_RATIO))
        distance = DIRECTION * (1.0 - cosine) + LENGTH * ratio
        worst = 2.0 * DIRECTION + LENGTH * jnp.log(LARGEST_RATIO)
        return jnp.where(jnp.isfinite(distance), distance, worst)

    distances = jax.tree.leaves(jax.tree.map(one, learned, expert))
    return jnp.mean(jnp.stack(distances))
