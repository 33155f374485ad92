"""Several image sets in one array, so that tasks on different sets can run side by side in one batch."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from celo._errors import CeloError
from celo._types import Array, Batch, Key
from celo.data import Images, load_images
from celo.tasks._base import SPLITS
from celo.tasks._sources import uniform_index

# Digits over photographs stand in for SVHN, which has to be asked for.
CELO_DATASETS = ("mnist", "fashion_mnist", "cifar10", "mnist_on_cifar10")


class ImageSets:
    """Batches of flat images from one of several sets of equal shape and number of classes.

    Args:
      datasets: names known to `celo.data`.
      size: images are resized to size x size and, with `grey`, to one channel.
      batch_size: examples in a batch, drawn with replacement.
      standardised: by the mean and deviation of each set's pixels; otherwise pixels lie in [0, 1].

    Attributes:
      inputs: numbers in an image.
      classes: that a label may have.

    Raises:
      CeloError: if a data set is unknown or cannot be had, or the sets do not fit together.
    """

    def __init__(
        self, datasets: Sequence[str], *, size: int, grey: bool, batch_size: int, standardised: bool = True
    ):
        if not datasets:
            raise CeloError("an image family needs at least one data set, got none")
        sets = [load_images(name, size=size, grey=grey) for name in datasets]
        classes = {images.num_classes for images in sets}
        inputs = {math.prod(images.train.x.shape[1:]) for images in sets}
        if len(classes) > 1 or len(inputs) > 1:
            raise CeloError(
                f"data sets of one family must share classes and image size, got classes "
                f"{sorted(classes)} and inputs {sorted(inputs)} for {', '.join(datasets)}"
            )
        self.inputs, self.classes, self.batch_size = inputs.pop(), classes.pop(), batch_size
        self._splits = {split: _stack([getattr(images, split) for images in sets]) for split in SPLITS}
        self._shift, self._scale = _pixel_statistics(sets) if standardised else _unit_range(len(sets))

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one for each example; [count, batch] float32."""
        return jax.random.uniform(key, (count, self.batch_size), jnp.float32)

    def batch(self, member: Array, split: str, draw: Array) -> Batch:
        """(x [batch, inputs] float32, y [batch] int32) from the set numbered `member`."""
        data = self._splits[split]
        offset, size = jnp.asarray(data.offsets)[member], jnp.asarray(data.sizes)[member]
        index = offset + uniform_index(draw, size)
        x = jnp.asarray(data.x)[index].astype(jnp.float32)
        shift, scale = jnp.asarray(self._shift)[member], jnp.asarray(self._scale)[member]
        return (x - shift) * scale, jnp.asarray(data.y)[index].astype(jnp.int32)


@dataclasses.dataclass(frozen=True)
class _Stacked:
    """Several sets end to end: x uint8 [N, inputs], y uint8 [N], and where each set begins."""

    x: np.ndarray
    y: np.ndarray
    offsets: np.ndarray
    sizes: np.ndarray


def _stack(splits: Sequence) -> _Stacked:
    sizes = np.array([len(split.y) for split in splits], np.int32)
    return _Stacked(
        x=np.concatenate([split.x.reshape(len(split.x), -1) for split in splits]),
        y=np.concatenate([split.y for split in splits]).astype(np.uint8),
        offsets=np.concatenate([[0], np.cumsum(sizes)[:-1]]).astype(np.int32),
        sizes=sizes,
    )


def _pixel_statistics(sets: Sequence[Images]) -> tuple[np.ndarray, np.ndarray]:
    """(mean, 1 / standard deviation) over all training pixels of each set; float32 [sets] each."""
    means = np.array([images.train.x.mean() for images in sets], np.float32)
    stds = np.array([images.train.x.std() for images in sets], np.float32)
    return means, 1.0 / stds


def _unit_range(sets: int) -> tuple[np.ndarray, np.ndarray]:
    """(shift, scale) that take 0 … 255 to [0, 1]."""
    return np.zeros(sets, np.float32), np.full(sets, 1 / 255, np.float32)
