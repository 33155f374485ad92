"""The contract of a task: parameters to find, a loss to minimise, batches to draw."""

import abc
from typing import Any

import jax

from celo._types import Array, Batch, Key, ModelState, Params

SPLITS = ("train", "valid", "test")
"""The three parts of a task's data."""


class Task(abc.ABC):
    """One inner problem. A pytree: every array in which two tasks of a family differ is a leaf.

    The data is never a leaf; it belongs to the family, and batches are arguments.
    """

    @abc.abstractmethod
    def init(self, key: Key) -> tuple[Params, ModelState]:
        """Fresh parameters and model state (() where the model has none)."""

    @abc.abstractmethod
    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """The loss on one batch.

        Returns:
          (loss, (model_state, metrics)): a float32 scalar, the state after the batch, and named
          scalars for people to read.
        """

    def evaluate(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """(loss, metrics) on a batch of held-out data.

        By default the same as `loss`. A task whose model behaves differently outside of training (averaged
        batch statistics, no dropout) defines its own. The model state is read, not changed.
        """
        loss, (_, metrics) = self.loss(params, model_state, key, batch)
        return loss, metrics


class TaskFamily(abc.ABC):
    """A distribution of tasks that share shapes, and the data they draw on.

    A family is made once and closed over; its methods are pure and work under jit and vmap.

    Attributes:
      members: names of the family's members, such as its data sets, for reports; `sample` takes an index.
      loss_cap: the value that losses in meta-training are clipped to, and that replaces non-finite ones.
    """

    members: tuple[str, ...]
    loss_cap: float

    @abc.abstractmethod
    def sample(self, key: Key, member: Array) -> Any:
        """A random task of `members[member]`; `member` is an int32 scalar."""

    @abc.abstractmethod
    def draw(self, key: Key, count: int) -> Any:
        """The randomness of `count` batches: a pytree whose leaves have a leading axis of that size.

        Drawing for many steps at once is much cheaper than drawing in each step.
        """

    @abc.abstractmethod
    def batch(self, task: Any, split: str, draw: Any) -> Batch:
        """The mini-batch for `task` that one draw selects from "train", "valid" or "test"; pure."""


def value_and_grad(
    task: Any, params: Params, model_state: ModelState, key: Key, batch: Batch
) -> tuple[Array, Params, ModelState]:
    """(loss, gradient, new model state) of a task at `params` on one batch."""
    (loss, (model_state, _)), grads = jax.value_and_grad(task.loss, has_aux=True)(
        params, model_state, key, batch
    )
    return loss, grads, model_state
