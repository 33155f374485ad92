"""Image classification by an MLP-Mixer (arXiv 2105.01601)."""

import flax.linen as nn

from celo._types import Array
from celo.tasks._models.patches import split_patches
from celo.tasks._module import ModuleFamily, classification
from celo.tasks._objectives import cross_entropy
from celo.tasks._sources import image_examples


class Mixer(nn.Module):
    """Perceptrons by turns along the patches and along the channels."""

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


def classifier(
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
