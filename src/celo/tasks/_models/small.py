"""Small networks of several kinds on 8x8 images: meta-training tasks besides Celo's perceptrons.

A rule meta-trained on one kind of network learns what holds for that network alone: our first weights trained
perceptrons well and a transformer not at all. Each family here is one architecture on several image sets.
"""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
import numpy as np

from celo._types import Array
from celo.data._splits import Split
from celo.tasks._base import SPLITS
from celo.tasks._losses import colour_error, cross_entropy, guessing_cap, reconstruction_error
from celo.tasks._models.autoencoders import Autoencoder
from celo.tasks._models.convnets import ConvNet
from celo.tasks._models.coordinates import FourierPerceptron, colours_at_points
from celo.tasks._models.layers import Perceptron
from celo.tasks._models.transformers import VisionTransformer
from celo.tasks._module import ModuleFamily
from celo.tasks._sources import CELO_DATASETS, Examples, image_examples

SIZE = 8


class Square(nn.Module):
    """A model of images applied to flat ones, which are gathered faster inside a vmapped loop."""

    model: nn.Module

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[batch, SIZE * SIZE] -> the model's outputs for [batch, SIZE, SIZE, 1]."""
        return self.model(x.reshape(len(x), SIZE, SIZE, 1), train)


class RowGRU(nn.Module):
    """A gated recurrent unit that reads an image row by row."""

    classes: int
    width: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, SIZE * SIZE] -> [batch, classes]."""
        del train
        rows = nn.RNN(nn.GRUCell(self.width))(x.reshape(len(x), SIZE, SIZE))
        return nn.Dense(self.classes)(rows[:, -1])  # type: ignore[index]


def deep_perceptrons(datasets: Sequence[str] = CELO_DATASETS[:2], *, batch_size: int = 32) -> ModuleFamily:
    """Three narrow layers with layer norm and tanh."""
    return _classifiers(
        "deep",
        datasets,
        batch_size,
        lambda classes: Perceptron((24, 24, 24), classes, jnp.tanh, layer_norm=True),
    )


def transformers(datasets: Sequence[str] = CELO_DATASETS[2:], *, batch_size: int = 16) -> ModuleFamily:
    """A vision transformer of one block on four patches."""
    return _classifiers(
        "vit",
        datasets,
        batch_size,
        lambda classes: Square(VisionTransformer(classes, patch=4, width=16, depth=1, heads=2)),
    )


def convnets(datasets: Sequence[str] = CELO_DATASETS[1:3], *, batch_size: int = 16) -> ModuleFamily:
    """Two convolutions of stride 2."""
    return _classifiers("conv", datasets, batch_size, lambda classes: Square(ConvNet(classes, (8, 12))))


def recurrent(datasets: Sequence[str] = CELO_DATASETS[:2], *, batch_size: int = 16) -> ModuleFamily:
    """A gated recurrent unit over the rows."""
    return _classifiers("gru", datasets, batch_size, lambda classes: RowGRU(classes, width=16))


def autoencoders(datasets: Sequence[str] = CELO_DATASETS[1:3], *, batch_size: int = 32) -> ModuleFamily:
    """Images from codes of twelve numbers; the cap is twice the error of a uniform guess."""
    source = image_examples(
        datasets, size=SIZE, grey=True, flat=True, batch_size=batch_size, standardised=False
    )
    members = _members("autoencoder", datasets)
    return ModuleFamily(members, source, Autoencoder((48, 12, 48)), reconstruction_error, loss_cap=0.25)


def coordinates(count: int = 2, *, batch_size: int = 64) -> ModuleFamily:
    """Photographs of CIFAR-10, one a member, as functions from a point to its colour.

    Args:
      count: photographs, the first of the training split.
      batch_size: pixels in a batch.
    """
    images = image_examples("cifar10", size=None, batch_size=batch_size)
    photographs = images.splits["train"].x[:count].astype(np.float32) / 255
    sets = [colours_at_points(colours) for colours in photographs]
    splits = {
        split: Split(
            *(np.concatenate(arrays) for arrays in zip(*(parts[split] for parts in sets), strict=True))
        )
        for split in SPLITS
    }
    sizes = {split: [len(parts[split].y) for parts in sets] for split in SPLITS}
    source = Examples(splits, 0, batch_size, np.zeros(count, np.float32), np.ones(count, np.float32), sizes)
    members = tuple(f"cifar10_{i}_coordinates" for i in range(count))
    return ModuleFamily(members, source, FourierPerceptron((32, 32)), colour_error, loss_cap=1.0)


def _classifiers(
    label: str, datasets: Sequence[str], batch_size: int, make: Callable[[int], nn.Module]
) -> ModuleFamily:
    source = image_examples(datasets, size=SIZE, grey=True, flat=True, batch_size=batch_size)
    cap = guessing_cap(source.classes)
    return ModuleFamily(_members(label, datasets), source, make(source.classes), cross_entropy, cap)


def _members(label: str, datasets: Sequence[str]) -> tuple[str, ...]:
    return tuple(f"{dataset}_{label}" for dataset in datasets)
