"""Patches of images, and convolution by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks import convolve, split_patches


@pytest.mark.parametrize("size", [(5, 6), (8, 8)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("extent", [(1, 1), (3, 3), (2, 4)])
def test_convolution_is_that_of_xla(size, strides, extent, key):
    x, kernel = (jax.random.normal(key, shape) for shape in ((2, *size, 3), (*extent, 3, 4)))
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=dimensions)
    np.testing.assert_allclose(convolve(x, kernel, strides, "SAME"), expected, rtol=1e-4, atol=1e-5)


def test_patches_are_squares_row_by_row():
    x = jnp.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    patches = split_patches(x, 2)
    assert patches.shape == (2, 6, 4)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4, 0].ravel())
