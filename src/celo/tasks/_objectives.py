"""What models are trained for: functions (outputs of the model, batch) -> (loss, metrics).

A batch is (inputs, targets); a loss a float32 scalar; metrics are named scalars for people to read, such
that their mean over batches means something.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from celo._types import Array, Batch

Objective = Callable[..., tuple[Array, dict[str, Array]]]


def cross_entropy(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean softmax cross-entropy in nats of logits [..., classes] and labels [...]; the accuracy."""
    _, labels = batch
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.sum(log_p * jax.nn.one_hot(labels, logits.shape[-1], dtype=log_p.dtype), axis=-1)
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return -jnp.mean(chosen), {"accuracy": accuracy}


def next_token(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of every next token, [batch, length, vocabulary]; also its perplexity."""
    loss, metrics = cross_entropy(logits, batch)
    return loss, metrics | {"perplexity": jnp.exp(loss)}


def next_character(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """`next_token` of characters; also in bits."""
    loss, metrics = next_token(logits, batch)
    return loss, metrics | {"bits_per_character": loss / math.log(2)}


def squared_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error against standardised targets, and the share of their variance explained."""
    _, targets = batch
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss, {"mse": loss, "explained_variance": 1.0 - loss}


def colour_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error against pixels in [0, 1], and the peak signal-to-noise ratio in dB."""
    _, targets = batch
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss, {"mse": loss, "psnr": -10.0 * jnp.log10(loss)}


def reconstruction_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """`colour_error` against the inputs, each image a row of pixels."""
    images, _ = batch
    return colour_error(outputs, (images, images.reshape(outputs.shape)))


def negative_elbo(outputs: tuple[Array, Array, Array], batch: Batch) -> tuple[Array, dict[str, Array]]:
    """The negative evidence lower bound of a variational autoencoder, in nats a pixel.

    Args:
      outputs: logits of Bernoulli pixels [batch, pixels], mean and log variance of the code [batch, code].
      batch: images with pixels in [0, 1], and labels, which are not used.
    """
    logits, mean, log_variance = outputs
    pixels = batch[0].reshape(logits.shape)
    surprise = jnp.sum(jax.nn.softplus(logits) - pixels * logits, axis=-1)
    divergence = 0.5 * jnp.sum(jnp.exp(log_variance) + jnp.square(mean) - 1.0 - log_variance, axis=-1)
    bound = jnp.mean(surprise + divergence)
    return bound / logits.shape[-1], {"elbo": -bound, "divergence": jnp.mean(divergence)}


def guessing_cap(classes: int) -> float:
    """Half as much again as guessing costs: where the loss of a classifier is capped."""
    return 1.5 * math.log(classes)
