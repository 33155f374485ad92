"""Reparametrisation augmentation: the same problem with its parameters in other units.

The task's parameters q are divided by factors s, p = q / s, and multiplied back inside the loss. The problem
stays equally hard, but gradients and useful step sizes change by orders of magnitude, so an optimizer
meta-trained over random s sees many more problems than it has data sets. Celo (arXiv 2501.12670) uses one
factor for all parameters, VeLO (arXiv 2211.09760) one for each tensor.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from celo._errors import CeloError, unknown_name
from celo._types import Array, Batch, Key, ModelState, Params
from celo.tasks._base import Task, TaskFamily

LEVELS = ("none", "global", "tensor", "parameter")


@dataclasses.dataclass(frozen=True)
class Reparametrisation:
    """How factors are drawn: log-uniform in [low, high].

    Attributes:
      level: "global" draws one factor for all parameters, "tensor" one for each tensor, "parameter" one for
        each number; "none" leaves the task as it is.
      low: smallest factor.
      high: largest factor.

    Raises:
      CeloError: the level is unknown, or the range is not 0 < low <= high < inf.
    """

    level: str = "global"
    low: float = 1e-3
    high: float = 1e3

    def __post_init__(self):
        if self.level not in LEVELS:
            raise unknown_name("augmentation level", self.level, LEVELS)
        if not 0 < self.low <= self.high < math.inf:
            raise CeloError(f"augmentation needs 0 < low <= high < inf, got low={self.low}, high={self.high}")

    def sample(self, key: Key, params: Params) -> Params:
        """Factors for parameters like `params` (arrays or shapes), a pytree of the same structure."""
        leaves, treedef = jax.tree.flatten(params)
        if self.level == "none":
            factors = [jnp.ones((), jnp.float32)] * len(leaves)
        elif self.level == "global":
            factors = [self._factors(key, ())] * len(leaves)
        else:
            keys = jax.random.split(key, len(leaves))
            shapes = [leaf.shape if self.level == "parameter" else () for leaf in leaves]
            factors = [self._factors(k, shape) for k, shape in zip(keys, shapes, strict=True)]
        return jax.tree.unflatten(treedef, factors)

    def _factors(self, key: Key, shape: tuple[int, ...]) -> Array:
        low, high = jnp.log(jnp.float32(self.low)), jnp.log(jnp.float32(self.high))
        return jnp.exp(jax.random.uniform(key, shape, jnp.float32, low, high))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Reparametrised(Task):
    """`task`, its parameters stored divided by `factors`."""

    task: Task
    factors: Params

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """The task's parameters in the new units."""
        params, model_state = self.task.init(key)
        return jax.tree.map(lambda q, s: (q / s).astype(q.dtype), params, self.factors), model_state

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """The task's loss at the parameters in the old units."""
        return self.task.loss(self._old_units(params), model_state, key, batch)

    def evaluate(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """The task's evaluation at the parameters in the old units."""
        return self.task.evaluate(self._old_units(params), model_state, key, batch)

    def _old_units(self, params: Params) -> Params:
        return jax.tree.map(lambda p, s: (p * s).astype(p.dtype), params, self.factors)


class Augmented(TaskFamily):
    """A family whose sampled tasks are reparametrised."""

    def __init__(self, family: TaskFamily, reparametrisation: Reparametrisation):
        self.members, self.loss_cap = family.members, family.loss_cap
        self._family, self._reparametrisation = family, reparametrisation

    def sample(self, key: Key, member: Array) -> Reparametrised:
        """A task of the family in random units."""
        key_task, key_factors = jax.random.split(key)
        task = self._family.sample(key_task, member)
        params, _ = jax.eval_shape(task.init, key)
        return Reparametrised(task, self._reparametrisation.sample(key_factors, params))

    def draw(self, key: Key, count: int) -> Any:
        """The family's draws."""
        return self._family.draw(key, count)

    def batch(self, task: Reparametrised, split: str, draw: Any) -> Batch:
        """The family's batch, which does not depend on the parameters' units."""
        return self._family.batch(task.task, split, draw)
