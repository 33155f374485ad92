"""Losses, by hand."""

import jax.numpy as jnp
import numpy as np

from celo.tasks import (
    colour_error,
    negative_elbo,
    next_character,
    noise_error,
    reconstruction_error,
    squared_error,
)


def test_losses():
    loss, metrics = squared_error(jnp.asarray([[1.0], [3.0]]), (None, jnp.asarray([[0.0], [1.0]])))
    assert (loss, metrics["explained_variance"]) == (2.5, -1.5)
    loss, metrics = colour_error(jnp.full((2, 3), 0.1), (None, jnp.zeros((2, 3))))
    np.testing.assert_allclose([loss, metrics["psnr"]], [0.01, 20.0], rtol=1e-5)
    loss, _ = reconstruction_error(jnp.ones((2, 4)), (jnp.zeros((2, 2, 2, 1)), jnp.zeros(2, jnp.int32)))
    assert loss == 1.0
    loss, _ = noise_error((jnp.ones((2, 3)), jnp.asarray([[1.0, 3.0, 1.0], [1.0, 1.0, 1.0]])), (None, None))
    np.testing.assert_allclose(loss, 4 / 6, rtol=1e-6)
    logits = jnp.zeros((1, 2, 4)).at[0, 0, 3].set(50.0)
    loss, metrics = next_character(logits, (None, jnp.asarray([[3, 1]])))
    np.testing.assert_allclose([loss, metrics["bits_per_character"]], [np.log(4) / 2, 1.0], rtol=1e-5)
    np.testing.assert_allclose([metrics["perplexity"], metrics["accuracy"]], [2.0, 0.5], rtol=1e-5)


def test_negative_elbo():
    logits, mean, log_variance = jnp.zeros((1, 5)), jnp.asarray([[2.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    loss, metrics = negative_elbo((logits, mean, log_variance), (jnp.full((1, 5, 1, 1), 0.3), None))
    divergence = 0.5 * 2.0**2 + 0.5 * (np.e - 1 - 1)
    np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-5)
    np.testing.assert_allclose(-metrics["elbo"], 5 * np.log(2) + divergence, rtol=1e-5)
    np.testing.assert_allclose(loss, -metrics["elbo"] / 5, rtol=1e-6)
