"""Models of Celo's evaluation (arXiv 2501.12670) whose architecture differs from that of our smaller ones.

Source: the published tasks in google/learned_optimization, learned_optimization/tasks/fixed. The published
convolutional networks, perceptrons and autoencoders differ from ours in settings alone.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo._nn import lstm_step, truncated_normal_fan_in
from celo._types import Array, Key
from celo.tasks._losses import cross_entropy
from celo.tasks._models.layers import Blocks
from celo.tasks._models.patches import split_patches
from celo.tasks._module import ModuleFamily, classification, language
from celo.tasks._sources import image_examples, text_windows

HEAD_SIZE = 32  # of the language models' attention, independent of their width


def fan_in(key: Key, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
    """Initial weights [inputs, outputs]: normals of deviation 1/sqrt(inputs), truncated at two deviations."""
    del dtype
    return truncated_normal_fan_in(key, shape, shape[0])


def unit(key: Key, shape: tuple[int, ...], dtype: object = jnp.float32) -> Array:
    """Initial embeddings: normals of deviation 1, truncated at two deviations."""
    del dtype
    return truncated_normal_fan_in(key, shape, 1)


class TokenTransformer(nn.Module):
    """A vision transformer that classifies by a learned token prepended to the patches.

    The last layer starts at zero, so the first loss is that of guessing.
    """

    classes: int
    patch: int
    width: int
    depth: int
    heads: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """Logits: [batch, height, width, channels] -> [batch, classes]."""
        x = nn.Dense(self.width)(split_patches(x, self.patch))
        token = self.param("token", nn.initializers.zeros, (1, 1, self.width))
        x = jnp.concatenate([jnp.broadcast_to(token, (len(x), 1, self.width)), x], axis=1)
        x = Blocks(self.depth, self.heads, kernel_init=nn.initializers.xavier_uniform())(x, train)
        return nn.Dense(self.classes, kernel_init=nn.initializers.zeros)(x[:, 0])


class LanguageTransformer(nn.Module):
    """A causal transformer with heads of `HEAD_SIZE` and without position embeddings.

    Attention weights are [width, heads, size] and [heads, size, width]; the published ones are flat matrices.
    """

    vocabulary: int
    width: int
    depth: int
    heads: int
    dropout: float

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        """Logits of the next token: int32 [batch, length] -> [batch, length, vocabulary]."""
        x = nn.Embed(self.vocabulary, self.width, embedding_init=unit)(tokens)
        mask = nn.make_causal_mask(tokens, dtype=jnp.bool_)
        init = nn.initializers.variance_scaling(2.0 / self.depth, "fan_in", "truncated_normal")
        blocks = Blocks(self.depth, self.heads, self.dropout, HEAD_SIZE, positions=False, kernel_init=init)
        return nn.Dense(self.vocabulary, kernel_init=fan_in)(blocks(x, train, mask))


class LanguageLSTM(nn.Module):
    """One LSTM between an embedding and a softmax.

    Its gates share one matrix, the forget gate is shifted by one, and the initial state is learned.
    """

    vocabulary: int
    width: int
    embedding: int

    @nn.compact
    def __call__(self, tokens: Array, train: bool) -> Array:
        """Logits of the next token: int32 [batch, length] -> [batch, length, vocabulary]."""
        del train
        x = nn.Embed(self.vocabulary, self.embedding, embedding_init=unit)(tokens)
        w = self.param("w", fan_in, (self.embedding + self.width, 4 * self.width))
        b = self.param("b", nn.initializers.zeros, (4 * self.width,))
        starts = [
            self.param(f"start_{part}", nn.initializers.zeros, (1, self.width)) for part in ("hidden", "cell")
        ]

        def step(state: tuple[Array, Array], x: Array) -> tuple[tuple[Array, Array], Array]:
            state = jax.vmap(lstm_step, (0, 0, 0, None, None))(x, *state, w, b)
            return state, state[0]

        hidden, cell = (jnp.broadcast_to(start, (len(x), self.width)) for start in starts)
        _, outputs = jax.lax.scan(step, (hidden, cell), x.swapaxes(0, 1))
        return nn.Dense(self.vocabulary, kernel_init=fan_in)(outputs.swapaxes(0, 1))


def vision_transformer(
    dataset: str, *, patch: int, width: int, depth: int, heads: int, batch_size: int
) -> ModuleFamily:
    """Image classification by `TokenTransformer`."""
    source = image_examples(dataset, size=None, batch_size=batch_size)
    module = TokenTransformer(source.classes, patch, width, depth, heads)
    return classification(dataset, source, module, cross_entropy)


def language_transformer(
    dataset: str, *, length: int, width: int, depth: int, heads: int, dropout: float, batch_size: int
) -> ModuleFamily:
    """Next-token prediction by `LanguageTransformer`."""
    source = text_windows(dataset, length=length, batch_size=batch_size)
    return language(dataset, source, LanguageTransformer(source.classes, width, depth, heads, dropout))


def language_lstm(dataset: str, *, length: int, width: int, embedding: int, batch_size: int) -> ModuleFamily:
    """Next-token prediction by `LanguageLSTM`."""
    source = text_windows(dataset, length=length, batch_size=batch_size)
    return language(dataset, source, LanguageLSTM(source.classes, width, embedding))
