"""Where batches come from: examples or windows of a text, drawn with replacement from disjoint splits.

A source knows no model. Its arrays are constants of whatever is compiled, never leaves of a task.
"""

import abc
import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from celo._errors import CeloError
from celo._types import Array, Batch, Key
from celo.data import CORPORA, Split, load_images, load_text, load_tokens
from celo.tasks._base import SPLITS


def uniform_index(draw: Array, size: Array | int) -> Array:
    """Uniform numbers in [0, 1) as int32 indices below `size`; float32 may round up to it."""
    size = jnp.asarray(size, jnp.int32)
    return jnp.minimum((draw * size.astype(jnp.float32)).astype(jnp.int32), size - 1)


class Source(abc.ABC):
    """Batches (inputs, targets) of three disjoint splits.

    Attributes:
      batch_size: examples in a batch.
      classes: values a target may have, 0 for real numbers.
      inputs: shape and dtype of a batch's inputs.
    """

    batch_size: int
    classes: int

    @property
    @abc.abstractmethod
    def inputs(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch's inputs."""

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one for each example; [count, batch] float32."""
        return jax.random.uniform(key, (count, self.batch_size), jnp.float32)

    @abc.abstractmethod
    def batch(self, split: str, draw: Array) -> Batch:
        """(inputs, targets) from "train", "valid" or "test" for one draw, [batch]; pure."""


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(Source):
    """Independent examples; inputs are float32, (x - shift) * scale.

    Attributes:
      splits: name -> x [N, ...] of any number type, y [N, ...] int32 or float32.
      shift: number, or array of the shape of one example.
      scale: as shift.
    """

    splits: Mapping[str, Split]
    classes: int
    batch_size: int
    shift: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0

    @property
    def inputs(self) -> jax.ShapeDtypeStruct:
        """[batch, *shape of one example] float32."""
        return jax.ShapeDtypeStruct((self.batch_size, *self.splits["train"].x.shape[1:]), jnp.float32)

    def batch(self, split: str, draw: Array) -> Batch:
        """(x [batch, ...] float32, y [batch, ...])."""
        data = self.splits[split]
        index = uniform_index(draw, len(data.y))
        x = jnp.asarray(data.x)[index].astype(jnp.float32)
        shift, scale = jnp.asarray(self.shift, jnp.float32), jnp.asarray(self.scale, jnp.float32)
        return (x - shift) * scale, jnp.asarray(data.y)[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(Source):
    """Stretches of `length` tokens at random places, to be predicted each from those before it.

    Attributes:
      splits: name -> tokens, uint8 or uint16 [N].
    """

    splits: Mapping[str, np.ndarray]
    classes: int
    batch_size: int
    length: int

    @property
    def inputs(self) -> jax.ShapeDtypeStruct:
        """[batch, length] int32."""
        return jax.ShapeDtypeStruct((self.batch_size, self.length), jnp.int32)

    def batch(self, split: str, draw: Array) -> Batch:
        """(tokens, the tokens one further on), int32 [batch, length] each."""
        text = self.splits[split]
        start = uniform_index(draw, len(text) - self.length)
        window = jnp.asarray(text)[start[:, None] + jnp.arange(self.length + 1, dtype=jnp.int32)]
        window = window.astype(jnp.int32)
        return window[:, :-1], window[:, 1:]


def image_examples(dataset: str, *, size: int | None, batch_size: int, standardised: bool = True) -> Examples:
    """The images of a set known to `celo.data`, [batch, size, size, channels].

    Pixels are standardised by mean and deviation of all training pixels, or else lie in [0, 1].

    Raises:
      CeloError: if the data set is unknown or cannot be had.
    """
    images = load_images(dataset, size=size)
    pixels = images.train.x
    shift, scale = (pixels.mean(), 1 / pixels.std()) if standardised else (0.0, 1 / 255)
    splits = {split: getattr(images, split) for split in SPLITS}
    return Examples(splits, images.num_classes, batch_size, float(shift), float(scale))


def text_windows(dataset: str, *, length: int, batch_size: int) -> Windows:
    """Windows of a text, in characters, or of a corpus, in word pieces, known to `celo.data`.

    Raises:
      CeloError: if it is unknown or cannot be had, or a part of it is no longer than a window.
    """
    if dataset in CORPORA:
        text = load_tokens(dataset)
        classes = text.vocabulary
    else:
        text = load_text(dataset)
        classes = len(text.vocabulary)
    splits = {split: getattr(text, split) for split in SPLITS}
    for split, tokens in splits.items():
        if len(tokens) <= length:  # a window and the token to be predicted last
            raise CeloError(
                f"the {split} part of {dataset!r} has {len(tokens):,} tokens, too few for a window of "
                f"{length} and the token after it: give it more text or ask for shorter windows"
            )
    return Windows(splits, classes, batch_size, length)
