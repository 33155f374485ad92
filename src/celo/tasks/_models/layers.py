"""Flax layers that several families of networks share: perceptron, convolution, transformer blocks."""

from collections.abc import Callable
from functools import partial

import flax.linen as nn
import jax

from celo._types import Array
from celo.tasks._models.patches import convolve
from celo.tasks._module import NOISE

Initializer = jax.nn.initializers.Initializer
Conv = partial(nn.Conv, conv_general_dilated=convolve)


class Perceptron(nn.Module):
    """Dense layers on flattened inputs: [batch, ...] -> [batch, outputs]."""

    hidden: tuple[int, ...]
    outputs: int
    activation: Callable[[Array], Array] = jax.nn.relu
    layer_norm: bool = False
    dropout: float = 0.0

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """The last layer's outputs, without an activation."""
        x = x.reshape(len(x), -1)
        for width in self.hidden:
            x = nn.Dense(width)(x)
            if self.layer_norm:
                x = nn.LayerNorm()(x)
            x = self.activation(x)
            x = nn.Dropout(self.dropout, rng_collection=NOISE)(x, deterministic=not train)
        return nn.Dense(self.outputs)(x)


class Blocks(nn.Module):
    """Transformer blocks: attention and a perceptron, each after a norm and added to its input.

    Attributes:
      head_size: size of a query, key or value of one head; None shares the width among the heads.
      positions: whether learned positions are added to the inputs.
      kernel_init: initializer of all weights but norms and biases.
    """

    depth: int
    heads: int
    dropout: float = 0.0
    head_size: int | None = None
    positions: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        """[batch, length, width] -> the same; mask [batch, 1, length, length]: True where i attends to j."""
        drop = nn.Dropout(self.dropout, deterministic=not train, rng_collection=NOISE)
        _, length, width = x.shape
        if self.positions:
            x = x + self.param("positions", nn.initializers.normal(0.02), (length, width))
        inner = self.heads * self.head_size if self.head_size else width
        for _ in range(self.depth):
            attention = nn.MultiHeadDotProductAttention(
                self.heads, qkv_features=inner, kernel_init=self.kernel_init
            )
            x = x + drop(attention(nn.LayerNorm()(x), mask=mask))
            y = nn.gelu(nn.Dense(4 * width, kernel_init=self.kernel_init)(nn.LayerNorm()(x)))
            x = x + drop(nn.Dense(width, kernel_init=self.kernel_init)(y))
        return nn.LayerNorm()(x)
