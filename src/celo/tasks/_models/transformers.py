"""Transformers and an MLP-Mixer: image classification from patches, and language models."""

import flax.linen as nn
import jax.numpy as jnp

from celo._types import Array
from celo.tasks._losses import cross_entropy, next_token
from celo.tasks._models.layers import Blocks
from celo.tasks._models.patches import split_patches
from celo.tasks._module import ModuleFamily, classification, language
from celo.tasks._sources import image_examples, text_windows


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


class Mixer(nn.Module):
    """Perceptrons alternately along the patches and along the channels (arXiv 2105.01601)."""

    classes: int
    patch: int
    width: int
    depth: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, height, width, channels] -> [batch, classes]."""
        del train
        x = nn.Dense(self.width)(split_patches(x, self.patch))
        for _ in range(self.depth):
            y = nn.LayerNorm()(x).swapaxes(1, 2)
            x = x + _mix(y).swapaxes(1, 2)
            x = x + _mix(nn.LayerNorm()(x))
        return nn.Dense(self.classes)(nn.LayerNorm()(x).mean(axis=1))


def _mix(x: Array) -> Array:
    width = x.shape[-1]
    return nn.Dense(width)(nn.gelu(nn.Dense(2 * width)(x)))


class CausalTransformer(nn.Module):
    """Attention of each token to itself and to earlier ones."""

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


def mixer(
    dataset: str,
    *,
    size: int | None = None,
    patch: int = 7,
    width: int = 32,
    depth: int = 2,
    batch_size: int = 32,
) -> ModuleFamily:
    """Image classification by `Mixer`."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    return classification(dataset, source, Mixer(source.classes, patch, width, depth), cross_entropy)


def language_model(
    dataset: str = "kjv",
    *,
    length: int = 32,
    width: int = 32,
    depth: int = 2,
    heads: int = 2,
    dropout: float = 0.0,
    batch_size: int = 16,
    words: int | None = None,
) -> ModuleFamily:
    """Next-token prediction by `CausalTransformer`; `words` as in `text_windows`."""
    source = text_windows(dataset, length=length, batch_size=batch_size, words=words)
    module = CausalTransformer(source.classes, width, depth, heads, dropout)
    if words is not None:
        return classification(dataset, source, module, next_token)
    return language(dataset, source, module)
