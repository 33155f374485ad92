"""Noiseless quadratics with a known minimum, for tests and first experiments.

    loss(p) = 1/2 sum_i h_i (p_i - c_i)²

Gradient descent on them can be worked out by hand, and back-propagation through it is exact.
"""

import dataclasses

import jax
import jax.numpy as jnp

from celo._errors import CeloError
from celo._types import Array, Batch, Key, ModelState, Params
from celo.tasks._base import Task, TaskFamily


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Quadratic(Task):
    """One quadratic with minimum 0 at `centre`."""

    curvature: Array  # [dim], positive
    centre: Array  # [dim]

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """A standard normal starting point {"x": [dim]}."""
        return {"x": jax.random.normal(key, self.centre.shape, jnp.float32)}, ()

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """The loss; key and batch are ignored."""
        del key, batch
        return 0.5 * jnp.sum(self.curvature * jnp.square(params["x"] - self.centre)), (model_state, {})


@dataclasses.dataclass(frozen=True)
class Quadratics(TaskFamily):
    """Quadratics with curvatures log-uniform in [1, condition] and standard normal centres.

    Raises:
      CeloError: if `dim` or `condition` is below 1.
    """

    dim: int = 10
    condition: float = 10.0
    loss_cap: float = 1e6
    members: tuple[str, ...] = ("quadratic",)

    def __post_init__(self):
        if self.dim < 1 or self.condition < 1:
            raise CeloError(
                f"a quadratic needs dim >= 1 and condition >= 1, got {self.dim}, {self.condition}"
            )

    def sample(self, key: Key, member: Array) -> Quadratic:
        """A random quadratic."""
        del member
        key_curvature, key_centre = jax.random.split(key)
        log_curvature = jax.random.uniform(
            key_curvature, (self.dim,), jnp.float32, 0.0, jnp.log(jnp.float32(self.condition))
        )
        return Quadratic(jnp.exp(log_curvature), jax.random.normal(key_centre, (self.dim,), jnp.float32))

    def draw(self, key: Key, count: int) -> tuple[()]:
        """Nothing: the loss is deterministic."""
        del key, count
        return ()

    def batch(self, task: Quadratic, split: str, draw: tuple[()]) -> Batch:
        """Nothing."""
        del task, split
        return draw
