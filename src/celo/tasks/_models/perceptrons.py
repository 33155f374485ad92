"""Perceptrons: the plain network of several tasks, and image classification by it."""

from collections.abc import Callable

import flax.linen as nn
import jax

from celo._types import Array
from celo.tasks._module import NOISE, ModuleFamily, classification
from celo.tasks._objectives import cross_entropy
from celo.tasks._sources import image_examples


class Perceptron(nn.Module):
    """Dense layers on flattened inputs: [batch, ...] -> [batch, outputs]."""

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array] = jax.nn.relu
    layer_norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The last layer's outputs, no activation on them."""
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.Dense(width)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
            x = nn.Dropout(self.dropout, rng_collection=NOISE)(x, deterministic=not train)
        return nn.Dense(self.outputs)(x)


def classifier(
    dataset: str,
    *,
    hidden: tuple[int, ...],
    size: int | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
    layer_norm: bool = False,
    batch_size: int = 128,
) -> ModuleFamily:
    """Image classification by a perceptron."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    module = Perceptron(hidden, source.classes, activation, layer_norm)
    return classification(dataset, source, module, cross_entropy)
