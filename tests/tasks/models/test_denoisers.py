"""A denoiser of images: what it is given, and that its answer is of image and noise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks._models.denoisers import Denoiser, denoiser
from celo.tasks._module import NOISE

IMAGES = jax.random.normal(jax.random.key(1), (3, 7, 7, 2))  # halved to 4 and 2, and doubled back


@pytest.fixture(scope="module")
def found():
    """(parameters, a function: key, images -> (prediction, noise)) of a denoiser of three stages."""
    module = Denoiser((2, 4, 4), groups=2)
    init = jax.jit(lambda key: module.init({"params": key, NOISE: key}, IMAGES, train=False)["params"])
    params = init(jax.random.key(0))
    run = jax.jit(lambda key, x: module.apply({"params": params}, x, train=True, rngs={NOISE: key}))
    return params, run


def test_it_answers_with_the_noise_of_each_pixel(found):
    params, run = found
    predicted, noise = run(jax.random.key(2), IMAGES)
    assert predicted.shape == noise.shape == IMAGES.shape
    # Halved twice: the second and third stage begin with a convolution of their own.
    strided = [p["kernel"].shape for name, p in params.items() if name.startswith("Conv_")]
    assert (3, 3, 2, 4) in strided
    assert (3, 3, 4, 4) in strided


def test_noise_is_normal_and_of_its_key(found):
    _, run = found
    noises = np.stack([run(jax.random.key(seed), IMAGES)[1] for seed in range(20)])
    count = noises.size
    assert abs(noises.mean()) < 4.5 / np.sqrt(count)
    assert abs(noises.std() - 1) < 4.5 / np.sqrt(2 * count)
    np.testing.assert_array_equal(noises[3], run(jax.random.key(3), IMAGES)[1])


def test_what_it_sees_is_the_image_under_that_noise(found):
    """Of one key, levels and noise are the same: images that differ give answers that differ."""
    _, run = found
    (here, noise), (there, same) = run(jax.random.key(4), IMAGES), run(jax.random.key(4), 0 * IMAGES)
    np.testing.assert_array_equal(noise, same)
    assert np.abs(here - there).max() > 1e-3


def test_levels_go_from_no_noise_to_nothing_else(monkeypatch):
    """The first convolution sees cos(angle) x + sin(angle) ε with the angle of the drawn level."""
    seen = []
    monkeypatch.setattr(Denoiser, "_block", lambda self, x, level, channels: seen.append(x) or x)
    module = Denoiser((2,), groups=1)
    keys = {"params": jax.random.key(0), NOISE: jax.random.key(0)}
    for u in (0.0, 1 / 3, 1.0):
        with monkeypatch.context() as patch:
            patch.setattr(jax.random, "uniform", lambda key, shape, dtype, u=u: jnp.full(shape, u, dtype))
            (_, noise), variables = module.init_with_output(keys, IMAGES, train=True)
        kernel = variables["params"]["Conv_0"]["kernel"]
        angle = np.pi / 2 * u
        expected = jax.lax.conv_general_dilated(
            np.cos(angle) * IMAGES + np.sin(angle) * noise,
            kernel,
            (1, 1),
            "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        np.testing.assert_allclose(seen.pop(), expected, rtol=1e-4, atol=1e-5)


def test_predicting_no_noise_costs_half_the_cap():
    family = denoiser("digits", channels=(4, 4), groups=2, batch_size=6)
    noise = jax.random.normal(jax.random.key(0), (1000, 2, 2, 1))
    loss, _ = family.model_loss((jnp.zeros_like(noise), noise), (None, None))
    np.testing.assert_allclose(2 * loss, family.loss_cap, rtol=0.1)
    assert family.source.inputs.shape == (6, 8, 8, 1)
