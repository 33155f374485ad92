"""Image classification by small multi-layer perceptrons: the task set Celo is meta-trained on."""

import dataclasses
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from celo.data import Images, load_images
from celo.errors import CeloError
from celo.nn import truncated_normal_fan_in
from celo.tasks.base import SPLITS, Task, TaskFamily
from celo.tasks.objectives import cross_entropy, guessing_cap
from celo.tasks.sources import uniform_index
from celo.types import Array, Batch, Key, ModelState, Params

CELO_DATASETS = ("mnist", "fashion_mnist", "cifar10", "digits")  # digits stand in for SVHN


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(Task):
    """Softmax regression on a perceptron with rectified linear units, from flat images.

    The leaves say which data set of the family the task draws from. Weights start as truncated normals of
    deviation 1/sqrt(fan in), biases at zero.
    """

    member: Array  # int32, index into the family's data sets
    layers: tuple[int, ...] = dataclasses.field(metadata={"static": True})  # (inputs, hidden …, classes)

    def init(self, key: Key) -> tuple[Params, ModelState]:
        """Parameters {"layer0": {"w": [inputs, units], "b": [units]}, …}, float32."""
        keys = jax.random.split(key, len(self.layers) - 1)
        params = {
            f"layer{i}": {
                "w": truncated_normal_fan_in(keys[i], (fan_in, units), fan_in),
                "b": jnp.zeros((units,), jnp.float32),
            }
            for i, (fan_in, units) in enumerate(zip(self.layers[:-1], self.layers[1:], strict=True))
        }
        return params, ()

    def loss(
        self, params: Params, model_state: ModelState, key: Key, batch: Batch
    ) -> tuple[Array, tuple[ModelState, dict[str, Array]]]:
        """Mean softmax cross-entropy in nats; metrics hold the accuracy."""
        del key
        x, _ = batch
        last = len(self.layers) - 2
        for i in range(last + 1):
            x = x @ params[f"layer{i}"]["w"] + params[f"layer{i}"]["b"]
            x = jax.nn.relu(x) if i < last else x
        loss, metrics = cross_entropy(x, batch)
        return loss, (model_state, metrics)


class ImageMLPs(TaskFamily):
    """One perceptron architecture over one or more image sets; members are the sets.

    All sets lie in one array, so that tasks on different sets can run side by side in one batch.

    Args:
      datasets: names known to `celo.data`, all with the same number of classes.
      size: images are resized to size x size and, with `grey`, to one channel.
      hidden: widths of the hidden layers.
      batch_size: examples in a batch, drawn with replacement.

    Raises:
      CeloError: if a data set is unknown or cannot be had, or the sets do not fit together.
    """

    def __init__(
        self,
        datasets: Sequence[str] = CELO_DATASETS,
        *,
        size: int = 8,
        grey: bool = True,
        hidden: tuple[int, ...] = (32,),
        batch_size: int = 64,
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
        self.members = tuple(datasets)
        self.loss_cap = guessing_cap(classes.copy().pop())
        self.layers = (inputs.pop(), *hidden, classes.pop())
        self.batch_size = batch_size
        self._splits = {split: _stack([getattr(images, split) for images in sets]) for split in SPLITS}
        self._mean, self._inverse_std = _pixel_statistics(sets)

    def sample(self, key: Key, member: Array) -> ImageMLP:
        """The perceptron on data set `member`; tasks on one set are alike."""
        del key
        return ImageMLP(jnp.asarray(member, jnp.int32), self.layers)

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one for each example; [count, batch] float32."""
        return jax.random.uniform(key, (count, self.batch_size), jnp.float32)

    def batch(self, task: ImageMLP, split: str, draw: Array) -> Batch:
        """(x [batch, inputs] float32, standardised by the set's mean and deviation; y [batch] int32)."""
        member, data = task.member, self._splits[split]
        offset, size = jnp.asarray(data.offsets)[member], jnp.asarray(data.sizes)[member]
        index = offset + uniform_index(draw, size)
        x = jnp.asarray(data.x)[index].astype(jnp.float32)
        mean, inverse_std = jnp.asarray(self._mean)[member], jnp.asarray(self._inverse_std)[member]
        return (x - mean) * inverse_std, jnp.asarray(data.y)[index].astype(jnp.int32)


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
