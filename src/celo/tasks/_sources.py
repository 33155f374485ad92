"""Where batches come from: examples, or windows of a text, drawn with replacement from disjoint splits.

A source knows no model. Its arrays are constants of the compiled program, never leaves of a task.
"""

import abc
import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from celo._errors import CeloError
from celo._types import Array, Batch, Key
from celo.data._corpora import CORPORA, load_tokens
from celo.data._load import load_images, load_text
from celo.data._splits import Split
from celo.data._words import split_words
from celo.tasks._base import SPLITS

# The image sets that Celo is meta-trained on. MNIST digits over CIFAR-10 photographs stand in for SVHN, whose
# files users have to supply themselves.
CELO_DATASETS = ("mnist", "fashion_mnist", "cifar10", "mnist_on_cifar10")
"""The image sets that Celo is meta-trained on."""


def uniform_index(draw: Array, size: Array | int) -> Array:
    """Uniform numbers in [0, 1) as int32 indices below `size`."""
    size = jnp.asarray(size, jnp.int32)
    # The product may round up to `size` in float32.
    return jnp.minimum((draw * size.astype(jnp.float32)).astype(jnp.int32), size - 1)


class Source(abc.ABC):
    """Batches (inputs, targets) of three disjoint splits.

    Attributes:
      batch_size: examples in a batch.
      classes: number of values a target may have, 0 for real numbers.
      inputs: shape and dtype of a batch's inputs.
    """

    batch_size: int
    classes: int

    @property
    @abc.abstractmethod
    def inputs(self) -> jax.ShapeDtypeStruct:
        """Shape and dtype of a batch's inputs."""

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one an example: float32 [count, batch]."""
        return jax.random.uniform(key, (count, self.batch_size), jnp.float32)

    @abc.abstractmethod
    def batch(self, split: str, draw: Array, member: Array | int = 0) -> Batch:
        """(inputs, targets) for one draw [batch] from "train", "valid" or "test"; pure.

        `member` is the index of the data set, in a source that has several.
        """


@dataclasses.dataclass(frozen=True, eq=False)
class Examples(Source):
    """Independent examples of one data set, or of several; inputs are float32, (x - shift) * scale.

    Attributes:
      splits: name -> x [N, ...] of any number type, y [N, ...] int32 or float32. Several data sets share one
        array, one after another, so that tasks on different sets can run side by side under vmap.
      classes: number of classes, 0 for real targets.
      batch_size: examples in a batch.
      shift: number or array of the shape of one example; for several sets an array [sets].
      scale: like shift.
      sizes: for a sequence of sets, split -> number of examples of each; None means one set.
    """

    splits: Mapping[str, Split]
    classes: int
    batch_size: int
    shift: np.ndarray | float = 0.0
    scale: np.ndarray | float = 1.0
    sizes: Mapping[str, Sequence[int]] | None = None

    @property
    def inputs(self) -> jax.ShapeDtypeStruct:
        """[batch, *shape of one example] float32."""
        return jax.ShapeDtypeStruct((self.batch_size, *self.splits["train"].x.shape[1:]), jnp.float32)

    def batch(self, split: str, draw: Array, member: Array | int = 0) -> Batch:
        """(x float32 [batch, ...], y [batch, ...])."""
        data = self.splits[split]
        shift, scale = jnp.asarray(self.shift, jnp.float32), jnp.asarray(self.scale, jnp.float32)
        if self.sizes is None:
            index = uniform_index(draw, len(data.y))
        else:
            sizes = np.asarray(self.sizes[split], np.int32)
            starts = np.cumsum(sizes, dtype=np.int32) - sizes
            index = jnp.asarray(starts)[member] + uniform_index(draw, jnp.asarray(sizes)[member])
            shift, scale = shift[member], scale[member]
        x = jnp.asarray(data.x)[index].astype(jnp.float32)
        return (x - shift) * scale, jnp.asarray(data.y)[index]


@dataclasses.dataclass(frozen=True, eq=False)
class Windows(Source):
    """Windows of `length` tokens at random positions of one text; each token is predicted from earlier ones.

    Attributes:
      splits: name -> tokens, uint8 or uint16 [N].
      classes: number of different tokens.
      batch_size: windows in a batch.
      length: tokens in a window.
    """

    splits: Mapping[str, np.ndarray]
    classes: int
    batch_size: int
    length: int

    @property
    def inputs(self) -> jax.ShapeDtypeStruct:
        """[batch, length] int32."""
        return jax.ShapeDtypeStruct((self.batch_size, self.length), jnp.int32)

    def batch(self, split: str, draw: Array, member: Array | int = 0) -> Batch:
        """(tokens, the tokens that follow them), int32 [batch, length] each."""
        del member
        text = self.splits[split]
        start = uniform_index(draw, len(text) - self.length)
        window = jnp.asarray(text)[start[:, None] + jnp.arange(self.length + 1, dtype=jnp.int32)]
        window = window.astype(jnp.int32)
        return window[:, :-1], window[:, 1:]


def image_examples(
    datasets: str | Sequence[str],
    *,
    size: int | None,
    batch_size: int,
    grey: bool = False,
    flat: bool = False,
    standardised: bool = True,
) -> Examples:
    """The images of one or several data sets known to `celo.data`.

    Args:
      datasets: a name, or a sequence of them for a family whose tasks differ in their set; all sets must
        have the same shape and number of classes.
      size: height and width to which images are resized; None keeps the native size.
      batch_size: images in a batch.
      grey: whether images are reduced to one channel.
      flat: whether inputs are [batch, size * size * channels] instead of [batch, size, size, channels].
      standardised: whether pixels are standardised by the mean and deviation of all training pixels of their
        set; otherwise they lie in [0, 1].

    Raises:
      CeloError: a data set is unknown or unavailable, or the sets do not fit together.
    """
    names = [datasets] if isinstance(datasets, str) else list(datasets)
    if not names:
        raise CeloError("an image family needs at least one data set, got none")
    sets = [load_images(name, size=size, grey=grey) for name in names]
    classes = {images.num_classes for images in sets}
    shapes = {images.train.x.shape[1:] for images in sets}
    if len(classes) > 1 or len(shapes) > 1:
        raise CeloError(
            f"data sets of one family must have the same shape and number of classes, got shapes "
            f"{sorted(shapes)} and classes {sorted(classes)} for {', '.join(names)}"
        )
    if standardised:
        shift = np.array([images.train.x.mean() for images in sets])
        deviation = np.array([images.train.x.std() for images in sets])
    else:
        shift, deviation = np.zeros(len(sets)), np.full(len(sets), 255.0)
    splits, sizes = {}, {}
    for split in SPLITS:
        parts = [getattr(images, split) for images in sets]
        sizes[split] = [len(part.y) for part in parts]
        x, y = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        splits[split] = Split(x.reshape(len(x), -1) if flat else x, y)
    if isinstance(datasets, str):
        return Examples(splits, classes.pop(), batch_size, float(shift[0]), float(1 / deviation[0]))
    # Rounded before the division, not after it: weights were trained on these bits.
    scale = 1 / deviation.astype(np.float32) if standardised else (1 / deviation).astype(np.float32)
    return Examples(splits, classes.pop(), batch_size, shift.astype(np.float32), scale, sizes)


def text_windows(dataset: str, *, length: int, batch_size: int, words: int | None = None) -> Windows:
    """Windows of a text (in characters or words) or a corpus (in word pieces) known to `celo.data`.

    Args:
      dataset: the name of the text or corpus.
      length: tokens in a window.
      batch_size: windows in a batch.
      words: of a text, how many different tokens words become, one of which stands for all rarer ones; None:
        its tokens are characters.

    Raises:
      CeloError: it is unknown or unavailable, a part of it is too short for a window, or `words` is given for
        a corpus or out of range.
    """
    if dataset in CORPORA:
        if words is not None:
            raise CeloError(f"the corpus {dataset!r} is one of word pieces: leave words={words} out")
        text = load_tokens(dataset)
        classes = text.vocabulary
    else:
        text = load_text(dataset)
        classes = len(text.vocabulary)
        if words is not None:
            text, classes = split_words(text, words), words
    splits = {split: getattr(text, split) for split in SPLITS}
    for split, tokens in splits.items():
        if len(tokens) <= length:  # a window and the token after it
            raise CeloError(
                f"the {split} part of {dataset!r} has {len(tokens):,} tokens, too few for a window of "
                f"{length} and the token after it: supply more text or choose shorter windows"
            )
    return Windows(splits, classes, batch_size, length)
