"""A denoiser of images: a small U-Net that says which noise was added, as diffusion models do."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo._types import Array
from celo.tasks._losses import noise_error
from celo.tasks._models.layers import Conv
from celo.tasks._module import NOISE, ModuleFamily
from celo.tasks._sources import image_examples

FREQUENCIES = 8  # of the sines and cosines by which the network knows how much noise there is


class Denoiser(nn.Module):
    """A U-Net (arXiv 1505.04597) that predicts the noise ε in √(1 - s²) x + s ε, s = sin(u π / 2).

    How noisy each image is, u, is uniform in [0, 1): the cosine of arXiv 2102.09672, at continuous levels.

    Attributes:
      channels: of each stage; each but the first has half the height and width of the one before.
      groups: of the group norms; divides all of `channels`.
    """

    channels: tuple[int, ...]
    groups: int = 8

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array]:
        """Images [batch, height, width, colours] -> (the noise as predicted, the noise), each like x."""
        del train
        key_level, key_noise = jax.random.split(self.make_rng(NOISE))
        u = jax.random.uniform(key_level, (len(x), 1), x.dtype)
        noise = jax.random.normal(key_noise, x.shape, x.dtype)
        angle = (jnp.pi / 2 * u)[:, :, None, None]
        level = self._level(u)
        h = Conv(self.channels[0], (3, 3))(jnp.cos(angle) * x + jnp.sin(angle) * noise)
        passed_on = []
        for stage, channels in enumerate(self.channels):
            if stage:
                passed_on.append(h)
                h = Conv(channels, (3, 3), strides=2)(h)
            h = self._block(h, level, channels)
        for channels in reversed(self.channels[:-1]):
            beside = passed_on.pop()
            h = h.repeat(2, axis=1).repeat(2, axis=2)[:, : beside.shape[1], : beside.shape[2]]
            h = self._block(jnp.concatenate([h, beside], axis=-1), level, channels)
        h = nn.silu(nn.GroupNorm(self.groups)(h))
        return Conv(x.shape[-1], (3, 3))(h), noise

    def _level(self, u: Array) -> Array:
        """What blocks are told of the noise: [batch, 1] -> [batch, 4 times the first stage's channels]."""
        angles = jnp.pi * u * 2.0 ** jnp.arange(FREQUENCIES, dtype=u.dtype)
        waves = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
        return nn.silu(nn.Dense(4 * self.channels[0])(waves))

    def _block(self, x: Array, level: Array, channels: int) -> Array:
        """Two convolutions, added to x; between them each channel is moved as the level says."""
        y = Conv(channels, (3, 3))(nn.silu(nn.GroupNorm(self.groups)(x)))
        y = y + nn.Dense(channels)(level)[:, None, None]
        y = Conv(channels, (3, 3))(nn.silu(nn.GroupNorm(self.groups)(y)))
        return y + (x if x.shape[-1] == channels else Conv(channels, (1, 1))(x))


def denoiser(
    dataset: str,
    *,
    size: int | None = None,
    channels: tuple[int, ...] = (32, 64),
    groups: int = 8,
    batch_size: int = 16,
) -> ModuleFamily:
    """Denoising of images by `Denoiser`; predicting no noise at all costs 1, the cap is twice that."""
    source = image_examples(dataset, size=size, batch_size=batch_size)
    return ModuleFamily(dataset, source, Denoiser(channels, groups), noise_error, loss_cap=2.0)
