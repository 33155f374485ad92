"""Coordinate regression: a photograph as a function from a point to its colour, with held-out pixels."""

import math
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from celo._types import Array, Key
from celo.data._bundled import load_photograph
from celo.data._splits import Split, split_tenths
from celo.tasks._base import SPLITS
from celo.tasks._losses import colour_error
from celo.tasks._models.layers import Perceptron
from celo.tasks._module import ModuleFamily
from celo.tasks._sources import Examples

SIREN_FREQUENCY = 30.0  # arXiv 2006.09661, section 3.2


class FourierPerceptron(nn.Module):
    """A perceptron on sines and cosines of each coordinate at `octaves` frequencies (arXiv 2003.08934)."""

    hidden: tuple[int, ...]
    octaves: int = 6

    @nn.compact
    def __call__(self, points: Array, train: bool) -> Array:
        """[batch, 2] in [-1, 1] -> red, green and blue [batch, 3]."""
        frequencies = jnp.asarray(math.pi * 2.0 ** np.arange(self.octaves), jnp.float32)
        angles = points[:, :, None] * frequencies
        return Perceptron(self.hidden, 3)(jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1), train)


class Siren(nn.Module):
    """Sines for activations, with the initialisation they need (arXiv 2006.09661)."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, points: Array, train: bool) -> Array:
        """[batch, 2] in [-1, 1] -> red, green and blue [batch, 3]."""
        del train
        x = points
        for layer, width in enumerate(self.hidden):
            inputs = x.shape[-1]
            bound = 1 / inputs if layer == 0 else math.sqrt(6 / inputs) / SIREN_FREQUENCY

            def init(key: Key, shape: tuple[int, ...], dtype: type, bound: float = bound) -> Array:
                return jax.random.uniform(key, shape, dtype, -bound, bound)

            x = jnp.sin(SIREN_FREQUENCY * nn.Dense(width, kernel_init=init)(x))
        return nn.Dense(3)(x)


MODULES = {"fourier": FourierPerceptron, "siren": Siren}


def photograph(
    name: str,
    *,
    network: Literal["fourier", "siren"],
    hidden: tuple[int, ...] = (64, 64),
    batch_size: int = 256,
) -> ModuleFamily:
    """The colours of a photograph's pixels; the cap is the largest possible error."""
    source = Examples(colours_at_points(load_photograph(name).astype(np.float32) / 255), 0, batch_size)
    return ModuleFamily(name, source, MODULES[network](hidden), colour_error, loss_cap=1.0)


def colours_at_points(colours: np.ndarray) -> dict[str, Split]:
    """A photograph [height, width, 3], float32, as splits of points [N, 2] in [-1, 1] and colours [N, 3]."""
    height, width, _ = colours.shape
    rows, columns = np.linspace(-1, 1, height), np.linspace(-1, 1, width)
    points = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1).astype(np.float32)
    parts = split_tenths(points.reshape(-1, 2), colours.reshape(-1, 3))
    return dict(zip(SPLITS, parts, strict=True))
