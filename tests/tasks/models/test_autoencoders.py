"""Autoencoders of images, plain and variational, against the same by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit

from celo.tasks._models.autoencoders import Autoencoder, VariationalAutoencoder, autoencoder, variational
from celo.tasks._module import NOISE

IMAGES = np.asarray(jax.random.uniform(jax.random.key(1), (3, 4, 4, 1)))


def started(module):
    """Parameters without zeros, as NumPy arrays."""
    keys = {"params": jax.random.key(0), NOISE: jax.random.key(0)}
    params = jax.jit(lambda keys: module.init(keys, IMAGES, train=False)["params"])(keys)
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    return jax.device_get(params)


def perceptron(layers, x):
    """Rectified layers, and a last one that is not."""
    for i in range(len(layers)):
        x = x @ layers[f"Dense_{i}"]["kernel"] + layers[f"Dense_{i}"]["bias"]
        x = np.maximum(x, 0) if i < len(layers) - 1 else x
    return x


def test_an_autoencoder_gives_back_pixels_between_black_and_white():
    module = Autoencoder((5, 2, 5))
    params = started(module)
    found = module.apply({"params": params}, IMAGES, train=True)
    assert found.shape == (3, 16)
    expected = expit(perceptron(params["Perceptron_0"], IMAGES.reshape(3, 16)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert [params["Perceptron_0"][f"Dense_{i}"]["kernel"].shape for i in range(4)] == [
        *((16, 5), (5, 2), (2, 5), (5, 16))
    ]


@pytest.fixture(scope="module")
def coder():
    """(parameters, a function: seed -> (logits, mean, log variance)) of a variational autoencoder."""
    module = VariationalAutoencoder((6, 5), code=2)
    params = started(module)
    run = jax.jit(lambda key: module.apply({"params": params}, IMAGES, train=True, rngs={NOISE: key}))
    return params, lambda seed: jax.device_get(run(jax.random.key(seed)))


def test_a_variational_autoencoder_codes_an_image_as_mean_and_variance(coder):
    params, run = coder
    _, mean, log_variance = run(0)
    expected = perceptron(params["Perceptron_0"], IMAGES.reshape(3, 16))
    np.testing.assert_allclose(np.concatenate([mean, log_variance], axis=1), expected, rtol=1e-4, atol=1e-5)
    # The way back has the hidden layers of the way there in the other order.
    assert [params["Perceptron_1"][f"Dense_{i}"]["kernel"].shape for i in range(3)] == [
        (2, 5),
        (5, 6),
        (6, 16),
    ]


def test_the_code_is_drawn_from_the_normal_that_mean_and_variance_say():
    """Without hidden layers the way back is linear, and what was drawn is found from sixteen logits."""
    module = VariationalAutoencoder((), code=2)
    params = started(module)
    keys = jax.random.split(jax.random.key(3), 500)
    run = jax.jit(
        jax.vmap(lambda key: module.apply({"params": params}, IMAGES, train=False, rngs={NOISE: key}))
    )
    logits, mean, log_variance = jax.device_get(run(keys))
    back = params["Perceptron_1"]["Dense_0"]
    sample = (logits - back["bias"]) @ np.linalg.pinv(back["kernel"])
    draws = ((sample - mean) / np.exp(0.5 * log_variance)).reshape(-1, 6)  # of three images, two numbers each
    assert (np.abs(draws.mean(axis=0)) < 4.5 / np.sqrt(500)).all()
    assert (np.abs(draws.std(axis=0) - 1) < 4.5 / np.sqrt(2 * 500)).all()
    apart = np.corrcoef(draws.T) - np.eye(6)
    assert np.abs(apart).max() < 4.5 / np.sqrt(500)


def test_the_noise_of_a_code_is_of_its_key(coder):
    _, run = coder
    (first, mean, _), (again, _, _), (other, mean_too, _) = run(0), run(0), run(1)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(mean, mean_too)
    assert np.abs(first - other).max() > 1e-2


def batch_of(family, split="train"):
    task = family.sample(jax.random.key(0), jnp.int32(0))
    return task, family.batch(task, split, family.draw(jax.random.key(0), 1)[0])


def test_families_read_pixels_between_zero_and_one():
    for family in (autoencoder("digits", batch_size=64), variational("digits", batch_size=64)):
        assert family.members == ("digits",)
        _, (images, _) = batch_of(family)
        assert images.shape == (64, 8, 8, 1)
        assert (float(images.min()), float(images.max())) == (0.0, 1.0)


def test_the_cap_of_an_autoencoder_is_the_largest_error_there_is():
    family = autoencoder("digits", hidden=(4,), batch_size=6)
    loss, _ = family.model_loss(jnp.ones((6, 64)), (jnp.zeros((6, 8, 8, 1)), None))
    assert float(loss) == family.loss_cap == 1.0
    assert family.module.hidden == (4,)


def test_the_cap_of_a_variational_autoencoder_is_twice_what_grey_pixels_cost():
    family = variational("digits", hidden=(4,), code=3, batch_size=6)
    nothing = jnp.zeros((6, 3))
    _, batch = batch_of(family)
    loss, _ = family.model_loss((jnp.zeros((6, 64)), nothing, nothing), batch)
    np.testing.assert_allclose(2 * loss, family.loss_cap, rtol=1e-5)
    np.testing.assert_allclose(family.loss_cap, 2 * math.log(2))
    assert (family.module.hidden, family.module.code) == ((4,), 3)
