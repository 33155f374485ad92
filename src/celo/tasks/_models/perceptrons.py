"""Perceptrons: Celo's meta-training tasks on flat images, and larger ones on images and tables.

There are two perceptrons. Celo's is written in plain arrays, so that meta-training needs no Flax. The larger
ones use Flax's layers, with its initialisation, norms and dropout. Merging the two would change the initial
parameters of one of them, and with these all recorded results.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from celo._nn import truncated_normal_fan_in
from celo._types import Array, Batch, Key, ModelState, Params
from celo.data._load import load_table
from celo.tasks._base import SPLITS, Task, TaskFamily
from celo.tasks._losses import cross_entropy, guessing_cap, squared_error
from celo.tasks._module import ModuleFamily, classification
from celo.tasks._sources import CELO_DATASETS, Examples, image_examples


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class ImageMLP(Task):
    """Image classification by a perceptron with ReLUs, from flat images.

    Weights start as normals of deviation 1/sqrt(fan-in) truncated at two deviations, biases at zero.
    """

    member: Array  # int32 scalar, index of the family's data set
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
        """Mean cross-entropy in nats; metrics hold the accuracy."""
        del key
        x, _ = batch
        last = len(self.layers) - 2
        for i in range(last + 1):
            x = x @ params[f"layer{i}"]["w"] + params[f"layer{i}"]["b"]
            x = jax.nn.relu(x) if i < last else x
        loss, metrics = cross_entropy(x, batch)
        return loss, (model_state, metrics)


class ImageMLPs(TaskFamily):
    """One perceptron architecture on one or several image sets; each set is a member.

    Args:
      datasets: names known to `celo.data`, all with the same number of classes.
      size: height and width to which images are resized.
      grey: whether images are reduced to one channel.
      hidden: widths of the hidden layers.
      batch_size: examples in a batch, drawn with replacement.

    Raises:
      CeloError: a data set is unknown or unavailable, or the sets do not fit together.
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
        self.source = image_examples(datasets, size=size, grey=grey, flat=True, batch_size=batch_size)
        self.members = tuple(datasets)
        self.loss_cap = guessing_cap(self.source.classes)
        self.layers = (self.source.inputs.shape[1], *hidden, self.source.classes)

    def sample(self, key: Key, member: Array) -> ImageMLP:
        """The perceptron on data set `member`; tasks on the same set are identical."""
        del key
        return ImageMLP(jnp.asarray(member, jnp.int32), self.layers)

    def draw(self, key: Key, count: int) -> Array:
        """Uniform numbers in [0, 1), one an example: float32 [count, batch]."""
        return self.source.draw(key, count)

    def batch(self, task: ImageMLP, split: str, draw: Array) -> Batch:
        """(x float32 [batch, inputs], standardised by the set's mean and deviation; y int32 [batch])."""
        return self.source.batch(split, draw, task.member)


def image_classifier(
    dataset: str,
    *,
    hidden: tuple[int, ...],
    size: int | None = None,
    activation: Callable[[Array], Array] = jax.nn.relu,
    layer_norm: bool = False,
    batch_size: int = 128,
) -> ModuleFamily:
    """Image classification by Flax's perceptron."""
    from celo.tasks._models.layers import Perceptron  # Flax, which the tasks above do without

    source = image_examples(dataset, size=size, batch_size=batch_size)
    module = Perceptron(hidden, source.classes, activation, layer_norm)
    return classification(dataset, source, module, cross_entropy)


def table_model(
    dataset: str,
    *,
    hidden: tuple[int, ...] = (64, 64),
    activation: Callable[[Array], Array] = jax.nn.relu,
    layer_norm: bool = False,
    dropout: float = 0.5,
    batch_size: int = 64,
) -> ModuleFamily:
    """Classification or regression of a table's rows by Flax's perceptron with dropout.

    Features and real targets are standardised by the training rows. Dropout keeps a few hundred rows from
    being memorised. The loss is capped at four times that of guessing, which is 1 in a regression.

    Raises:
      CeloError: the table is unknown or unavailable, or scikit-learn is missing.
    """
    from celo.tasks._models.layers import Perceptron  # Flax, which the tasks above do without

    table = load_table(dataset)
    x, y = table.train
    splits = {split: getattr(table, split) for split in SPLITS}
    if not table.num_classes:
        splits = {
            split: part._replace(y=((part.y - y.mean(0)) / y.std(0)).astype(np.float32))
            for split, part in splits.items()
        }
    source = Examples(splits, table.num_classes, batch_size, x.mean(0), 1 / x.std(0))
    module = Perceptron(hidden, table.num_classes or y.shape[1], activation, layer_norm, dropout)
    if table.num_classes:
        return ModuleFamily(dataset, source, module, cross_entropy, 4 * math.log(table.num_classes))
    return ModuleFamily(dataset, source, module, squared_error, loss_cap=4.0)
