"""Convolutional networks for image classification: plain ones with and without norms, and a residual one."""

from typing import Literal

import flax.linen as nn

from celo._types import Array
from celo.tasks._losses import cross_entropy
from celo.tasks._models.layers import Conv
from celo.tasks._module import ModuleFamily, classification
from celo.tasks._sources import image_examples

Norm = Literal["none", "batch", "layer"]


class ConvNet(nn.Module):
    """3 x 3 convolutions, the first ones of stride 2, and the mean over all positions.

    Attributes:
      strided: number of layers with stride 2.
      norm: none, over the batch and all positions, or over the channels of each position.
      norm_last: the norm follows the activation, as in Celo's evaluation, instead of preceding it.
    """

    classes: int
    channels: tuple[int, ...]
    norm: Norm = "none"
    strided: int = 2
    norm_last: bool = False

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, height, width, channels] -> [batch, classes]."""
        for layer, channels in enumerate(self.channels):
            x = Conv(channels, (3, 3), strides=2 if layer < self.strided else 1)(x)
            x = nn.relu(x) if self.norm_last else x
            if self.norm == "batch":
                # With the default of 0.99, averages would lag by more than a run's first hundred steps.
                x = nn.BatchNorm(use_running_average=not train, momentum=0.9)(x)
            elif self.norm == "layer":
                x = nn.LayerNorm()(x)
            x = x if self.norm_last else nn.relu(x)
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


class ResNet(nn.Module):
    """Residual blocks of two convolutions with group norms; each stage but the first halves the image."""

    classes: int
    channels: tuple[int, ...]
    groups: int = 4

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, height, width, channels] -> [batch, classes]."""
        del train
        x = Conv(self.channels[0], (3, 3), use_bias=False)(x)
        for stage, channels in enumerate(self.channels):
            strides = 1 if stage == 0 else 2
            y = nn.relu(nn.GroupNorm(self.groups)(x))
            if strides > 1:
                x = Conv(channels, (1, 1), strides, use_bias=False)(y)
            y = Conv(channels, (3, 3), strides, use_bias=False)(y)
            y = nn.relu(nn.GroupNorm(self.groups)(y))
            x = x + Conv(channels, (3, 3), use_bias=False)(y)
        x = nn.relu(nn.GroupNorm(self.groups)(x))
        return nn.Dense(self.classes)(x.mean(axis=(1, 2)))


def convnet(
    dataset: str,
    *,
    size: int | None = None,
    channels: tuple[int, ...] = (16, 32, 32),
    norm: Norm = "none",
    strided: int = 2,
    norm_last: bool = False,
    batch_size: int = 64,
) -> ModuleFamily:
    """Image classification by `ConvNet`."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    module = ConvNet(source.classes, channels, norm, strided, norm_last)
    return classification(dataset, source, module, cross_entropy)


def resnet(
    dataset: str, *, size: int | None = None, channels: tuple[int, ...] = (8, 16), batch_size: int = 32
) -> ModuleFamily:
    """Image classification by `ResNet`."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    return classification(dataset, source, ResNet(source.classes, channels), cross_entropy)
