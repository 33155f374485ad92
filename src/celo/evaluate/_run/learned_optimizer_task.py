"""Learning to optimize as a task: weights of AdaFac-MLP, trained by back-propagation through a training.

The last of Celo's evaluation tasks (arXiv 2501.12670): the loss is the mean over 50 steps of training a small
perceptron on Fashion-MNIST, a function of AdaFac-MLP's weights; no step counts for more than one and a half
times what guessing costs. It stands above tasks and optimizers, since it is made of both.
"""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo._types import Array, Batch, Key, ModelState, Params
from celo.optimizers._adafac_mlp import AdafacMLP
from celo.tasks._base import Task, TaskFamily, value_and_grad
from celo.tasks._losses import guessing_cap
from celo.tasks._models.perceptrons import ImageMLP, ImageMLPs

_LEARNED = AdafacMLP()


class Episode(NamedTuple):
    """One inner training: where it starts and the data of each step."""

    key: Key
    x: Array  # [steps, batch, inputs]
    y: Array  # [steps, batch]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class InnerTraining(Task):
    """Mean capped loss of an inner training, to be lowered over the weights of AdaFac-MLP that does it."""

    inner: ImageMLP

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """Fresh weights of AdaFac-MLP; 197."""
        return _LEARNED.init_theta(key), ()

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """Mean over the episode of the capped training losses; metrics hold the last one, not capped."""
        del key
        episode = batch

        def step(carry: Any, now: tuple[Array, Array]) -> tuple[Any, Array]:
            inner, state = carry
            loss, grads, _ = value_and_grad(self.inner, inner, (), episode.key, now)
            updates, state = _LEARNED.update(params, grads, state, inner, value=loss)
            return (jax.tree.map(jnp.add, inner, updates), state), loss

        start, _ = self.inner.init(episode.key)
        state = _LEARNED.init(params, start, jnp.ones((), jnp.int32))
        _, losses = jax.lax.scan(jax.checkpoint(step), (start, state), (episode.x, episode.y))
        cap = guessing_cap(self.inner.layers[-1])
        capped = jnp.where(losses < cap, losses, cap)  # what is not a number costs as much
        return jnp.mean(capped), (model_state, {"last_loss": losses[-1]})


class InnerTrainings(TaskFamily):
    """The task, its episodes from one image set at 8x8.

    Args:
      dataset: a name known to `celo.data`.
      steps: of an inner training.
      batch_size: of each of its steps.

    Raises:
      CeloError: if the data set is unknown or cannot be fetched.
    """

    def __init__(self, dataset: str, *, steps: int = 50, batch_size: int = 128):
        self._family, self._steps = ImageMLPs((dataset,), batch_size=batch_size), steps
        self.members, self.loss_cap = (f"training on {dataset}",), self._family.loss_cap

    def sample(self, key: Key, member: Array) -> InnerTraining:
        """The task; there is but one."""
        return InnerTraining(self._family.sample(key, member))

    def draw(self, key: Key, count: int) -> tuple[Key, Array]:
        """Keys of the starts, and the draws of every step, for `count` episodes."""
        key_start, key_data = jax.random.split(key)
        draws = self._family.draw(key_data, count * self._steps)
        return jax.random.split(key_start, count), draws.reshape(count, self._steps, -1)

    def batch(self, task: InnerTraining, split: str, draw: tuple[Key, Array]) -> Episode:
        """One episode on the data of a split."""
        key, draws = draw
        x, y = jax.vmap(lambda one: self._family.batch(task.inner, split, one))(draws)
        return Episode(key, x, y)


def training_adafac_mlp() -> InnerTrainings:
    """The task on Fashion-MNIST, as in the paper; suites name it "celo.evaluate:training_adafac_mlp"."""
    return InnerTrainings("fashion_mnist")
