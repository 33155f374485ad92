"""Transformers: image classification from patches, and language models."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo._types import Array
from celo.tasks._models.patches import split_patches
from celo.tasks._module import NOISE, ModuleFamily, classification, language
from celo.tasks._objectives import cross_entropy
from celo.tasks._sources import image_examples, text_windows

Initializer = jax.nn.initializers.Initializer


class Blocks(nn.Module):
    """Blocks of attention and a perceptron, each behind a norm and added.

    Attributes:
      head_size: numbers in a query, key or value of one head; None shares the width among the heads.
      positions: are learned and added to the inputs.
      kernel_init: where all weights but norms and biases start.
    """

    depth: int
    heads: int
    dropout: float = 0.0
    head_size: int | None = None
    positions: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()

    @nn.compact
    def __call__(self, x: Array, train: bool, mask: Array | None = None) -> Array:
        """[batch, length, width] -> the same; mask [batch, 1, length, length] says who sees whom."""
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


class VisionTransformer(nn.Module):
    """Attention between patches, then the mean over them."""

    classes: int
    patch: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, height, width, channels] -> [batch, classes]."""
        x = nn.Dense(self.width)(split_patches(x, self.patch))
        x = Blocks(self.depth, self.heads)(x, train)
        return nn.Dense(self.classes)(x.mean(axis=1))


class CausalTransformer(nn.Module):
    """Attention of each token to itself and those before it."""

    vocabulary: int
    width: int
    depth: int
    heads: int
    dropout: float = 0.0

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        """Logits of the next token: int32 [batch, length] -> [batch, length, vocabulary]."""
        x = nn.Embed(self.vocabulary, self.width)(tokens)
        mask = nn.make_causal_mask(tokens, dtype=jnp.bool_)
        x = Blocks(self.depth, self.heads, self.dropout)(x, train, mask)
        return nn.Dense(self.vocabulary)(x)


def vision_transformer(
    dataset: str,
    *,
    size: int | None = None,
    patch: int = 4,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    batch_size: int = 32,
) -> ModuleFamily:
    """Image classification by `VisionTransformer`."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    module = VisionTransformer(source.classes, patch, width, depth, heads)
    return classification(dataset, source, module, cross_entropy)


def language_model(
    dataset: str = "kjv",
    *,
    length: int = 32,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    dropout: float = 0.0,
    batch_size: int = 16,
) -> ModuleFamily:
    """Next tokens by `CausalTransformer`."""
    source = text_windows(dataset, length=length, batch_size=batch_size)
    module = CausalTransformer(source.classes, width, depth, heads, dropout)
    return language(dataset, source, module)
