"""Image classification by small multi-layer perceptrons: the task set Celo is meta-trained on."""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp

from celo._nn import truncated_normal_fan_in
from celo._types import Array, Batch, Key, ModelState, Params
from celo.tasks._base import Task, TaskFamily
from celo.tasks._image_sets import CELO_DATASETS, ImageSets
from celo.tasks._objectives import cross_entropy, guessing_cap


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
        self._sets = ImageSets(datasets, size=size, grey=grey, batch_size=batch_size)
        self.members = tuple(datasets)
        self.loss_cap = guessing_cap(self._sets.classes)
        self.layers = (self._sets.inputs, *hidden, self._sets.classes)
        self.batch_size = batch_size

    def sample(self, key: Key, member: Array) -> ImageMLP:
        """The perceptron on data set `member`; tasks on one set are alike."""
        del key
        return ImageMLP(jnp.asarray(member, jnp.int32), self.layers)

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one for each example; [count, batch] float32."""
        return self._sets.draw(key, count)

    def batch(self, task: ImageMLP, split: str, draw: Array) -> Batch:
        """(x [batch, inputs] float32, standardised by the set's mean and deviation; y [batch] int32)."""
        return self._sets.batch(task.member, split, draw)
