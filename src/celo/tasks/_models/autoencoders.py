"""Autoencoders of images: plain, and variational (arXiv 1312.6114)."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from celo._types import Array
from celo.tasks._losses import negative_elbo, reconstruction_error
from celo.tasks._models.layers import Perceptron
from celo.tasks._module import NOISE, ModuleFamily
from celo.tasks._sources import image_examples


class Autoencoder(nn.Module):
    """A perceptron that reproduces its inputs, pixels in [0, 1]."""

    hidden: tuple[int, ...]

    @nn.compact
    def __call__(self, x: Array, train: bool) -> Array:
        """[batch, ...] -> [batch, pixels]."""
        return nn.sigmoid(Perceptron(self.hidden, math.prod(x.shape[1:]))(x, train))


class VariationalAutoencoder(nn.Module):
    """A Gaussian code of each image, one sample of it, and Bernoulli pixels."""

    hidden: tuple[int, ...]
    code: int

    @nn.compact
    def __call__(self, x: Array, train: bool) -> tuple[Array, Array, Array]:
        """[batch, ...] -> logits [batch, pixels], mean and log variance of the code [batch, code]."""
        pixels = math.prod(x.shape[1:])
        mean, log_variance = jnp.split(Perceptron(self.hidden, 2 * self.code)(x, train), 2, axis=-1)
        noise = jax.random.normal(self.make_rng(NOISE), mean.shape, mean.dtype)
        sample = mean + jnp.exp(0.5 * log_variance) * noise
        return Perceptron(self.hidden[::-1], pixels)(sample, train), mean, log_variance


def autoencoder(
    dataset: str,
    *,
    size: int | None = None,
    hidden: tuple[int, ...] = (128, 32, 128),
    batch_size: int = 128,
) -> ModuleFamily:
    """Reconstruction of images by `Autoencoder`; the cap is the largest possible error."""
    source = image_examples(dataset, size=size, batch_size=batch_size, standardised=False)
    return ModuleFamily(dataset, source, Autoencoder(hidden), reconstruction_error, loss_cap=1.0)


def variational(
    dataset: str,
    *,
    size: int | None = None,
    hidden: tuple[int, ...] = (128,),
    code: int = 16,
    batch_size: int = 64,
) -> ModuleFamily:
    """A generative model of images, `VariationalAutoencoder`; the cap is twice the cost of grey pixels."""
    source = image_examples(dataset, size=size, batch_size=batch_size, standardised=False)
    module = VariationalAutoencoder(hidden, code)
    return ModuleFamily(dataset, source, module, negative_elbo, loss_cap=2 * math.log(2))
