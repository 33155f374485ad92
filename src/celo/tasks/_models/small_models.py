"""Small models of other kinds than Celo's perceptron, over several image sets at 8x8: more to meta-train on.

A rule that has met one network only learns what holds for that network: its first weights of ours trained
perceptrons well and a transformer not at all. Each family here is one architecture, its members the sets.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo._types import Array, Batch, Key, ModelState, Params
from celo.tasks._base import Task, TaskFamily
from celo.tasks._image_sets import CELO_DATASETS, ImageSets
from celo.tasks._models.autoencoders import Autoencoder
from celo.tasks._models.convnets import ConvNet
from celo.tasks._models.perceptrons import Perceptron
from celo.tasks._models.transformers import VisionTransformer
from celo.tasks._module import ModuleTask
from celo.tasks._objectives import Objective, cross_entropy, guessing_cap, reconstruction_error

SIZE = 8


class Square(nn.Module):
    """A model of flat images that sees them as SIZE x SIZE x 1."""

    model: nn.Module

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[batch, SIZE * SIZE] -> as the model."""
        return self.model(x.reshape(len(x), SIZE, SIZE, 1), train)


class RowGRU(nn.Module):
    """A gated recurrent unit that reads a picture row by row."""

    classes: int
    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, SIZE * SIZE] -> [batch, classes]."""
        del train
        rows = nn.RNN(nn.GRUCell(self.width))(x.reshape(len(x), SIZE, SIZE))
        return nn.Dense(self.classes)(rows[:, -1])  # type: ignore[index]


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SetTask(Task):
    """A module's task on one of several sets; the leaf says which."""

    member: Array  # int32, index into the family's data sets
    task: ModuleTask

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """As the module."""
        return self.task.init(key)

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """As the module."""
        return self.task.loss(params, model_state, key, batch)

    def evaluate(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, dict[str, Array]]:
        """As the module."""
        return self.task.evaluate(params, model_state, key, batch)


class ModulesOnSets(TaskFamily):
    """One module over one or more image sets; members are called after set and label."""

    def __init__(
        self,
        label: str,
        datasets: Sequence[str],
        sets: ImageSets,
        module: Any,
        objective: Objective,
        loss_cap: float,
    ):
        self.members = tuple(f"{name}_{label}" for name in datasets)
        self.loss_cap, self._sets = loss_cap, sets
        inputs = jax.ShapeDtypeStruct((sets.batch_size, sets.inputs), jnp.float32)
        self._task = ModuleTask(module, objective, inputs)

    def sample(self, key: Key, member: Array) -> SetTask:
        """The module's task on data set `member`; tasks on one set are alike."""
        del key
        return SetTask(jnp.asarray(member, jnp.int32), self._task)

    def draw(self, key: Key, count: int) -> Array:
        """As the sets draw."""
        return self._sets.draw(key, count)

    def batch(self, task: SetTask, split: str, draw: Array) -> Batch:
        """A batch of the task's set."""
        return self._sets.batch(task.member, split, draw)


def _classifiers(
    label: str, datasets: Sequence[str], batch_size: int, make: Callable[[int], nn.Module]
) -> ModulesOnSets:
    sets = ImageSets(datasets, size=SIZE, grey=True, batch_size=batch_size)
    return ModulesOnSets(label, datasets, sets, make(sets.classes), cross_entropy, guessing_cap(sets.classes))


def deep_perceptrons(datasets: Sequence[str] = CELO_DATASETS[:2]) -> ModulesOnSets:
    """Three narrow layers with layer norm and tanh."""
    return _classifiers(
        "deep", datasets, 32, lambda classes: Perceptron((24, 24, 24), classes, jnp.tanh, layer_norm=True)
    )


def transformers(datasets: Sequence[str] = CELO_DATASETS[2:]) -> ModulesOnSets:
    """A vision transformer of one block and four patches."""
    return _classifiers(
        "vit",
        datasets,
        16,
        lambda classes: Square(VisionTransformer(classes, patch=4, width=16, depth=1, heads=2)),
    )


def convnets(datasets: Sequence[str] = CELO_DATASETS[1:3]) -> ModulesOnSets:
    """Two convolutions of stride 2."""
    return _classifiers("conv", datasets, 16, lambda classes: Square(ConvNet(classes, (8, 12))))


def recurrent(datasets: Sequence[str] = CELO_DATASETS[:2]) -> ModulesOnSets:
    """A gated recurrent unit over the rows."""
    return _classifiers("gru", datasets, 16, lambda classes: RowGRU(classes, width=16))


def autoencoders(datasets: Sequence[str] = CELO_DATASETS[1:3]) -> ModulesOnSets:
    """Images from twelve numbers; the cap is twice the error of a uniform guess."""
    sets = ImageSets(datasets, size=SIZE, grey=True, batch_size=32, standardised=False)
    module = Autoencoder((48, 12, 48))
    return ModulesOnSets("autoencoder", datasets, sets, module, reconstruction_error, loss_cap=0.25)
