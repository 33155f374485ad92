"""What models are trained for: losses, functions (outputs of the model, batch) -> (loss, metrics).

A batch is (inputs, targets); a loss is a float32 scalar; metrics are named scalars for people to read, whose
mean over batches is meaningful.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from celo._types import Array, Batch

ModelLoss = Callable[..., tuple[Array, dict[str, Array]]]
"""(outputs, batch) -> (loss, metrics): scalars, the metrics by name."""


def cross_entropy(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean cross-entropy in nats of logits [..., classes] and labels [...]; metrics: accuracy."""
    _, labels = batch
    log_p = jax.nn.log_softmax(logits)
    chosen = jnp.sum(log_p * jax.nn.one_hot(labels, logits.shape[-1], dtype=log_p.dtype), axis=-1)
    accuracy = jnp.mean(jnp.argmax(logits, axis=-1) == labels)
    return -jnp.mean(chosen), {"accuracy": accuracy}


def next_token(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Cross-entropy of next tokens, logits [batch, length, vocabulary]; metrics: also perplexity."""
    loss, metrics = cross_entropy(logits, batch)
    return loss, metrics | {"perplexity": jnp.exp(loss)}


def next_character(logits: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """`next_token` for characters; metrics: also the loss in bits."""
    loss, metrics = next_token(logits, batch)
    return loss, metrics | {"bits_per_character": loss / math.log(2)}


def squared_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error for standardised targets; metrics: the share of their variance explained."""
    _, targets = batch
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss, {"mse": loss, "explained_variance": 1.0 - loss}


def colour_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error for pixels in [0, 1]; metrics: the peak signal-to-noise ratio in dB."""
    _, targets = batch
    loss = jnp.mean(jnp.square(outputs - targets))
    return loss, {"mse": loss, "psnr": -10.0 * jnp.log10(loss)}


def reconstruction_error(outputs: Array, batch: Batch) -> tuple[Array, dict[str, Array]]:
    """`colour_error` with the inputs as targets, each image flattened."""
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


def noise_error(outputs: tuple[Array, Array], batch: Batch) -> tuple[Array, dict[str, Array]]:
    """Mean squared error of predicted noise; outputs are (the prediction, the noise), any one shape."""
    del batch
    predicted, noise = outputs
    loss = jnp.mean(jnp.square(predicted - noise))
    return loss, {"mse": loss}


def guessing_cap(classes: int) -> float:
    """The loss cap of a classifier: 1.5 times the cross-entropy of guessing."""
    return 1.5 * math.log(classes)
