"""Gradient statistics of one tensor, against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._definitions import FACTORED_FLOOR, factored_axes
from celo._kernels.statistics import (
    finite_gradient,
    init_stats,
    inverse_factors,
    inverse_root,
    rms,
    update_stats,
)

DECAYS = {"momentum_decays": (0.9, 0.5), "second_moment_decay": 0.8, "factored_decays": (0.7,)}


@pytest.mark.parametrize("shape", [(), (4,), (3, 5), (4, 4), (2, 3, 1), (3, 3, 2, 4)])
def test_statistics_are_moving_averages(shape):
    rng = np.random.default_rng(0)
    grads = rng.normal(size=(5, *shape)).astype(np.float32)
    stats = init_stats(jnp.zeros(shape, jnp.bfloat16), 2, 1)
    m, v, row, col = [np.zeros(shape)] * 2, np.zeros(shape), 0.0, 0.0
    axes = factored_axes(shape)
    for g in grads.astype(np.float64):
        stats = update_stats(stats, jnp.asarray(g, jnp.float32), **DECAYS)
        m = [0.9 * m[0] + 0.1 * g, 0.5 * m[1] + 0.5 * g]
        v = 0.8 * v + 0.2 * g**2
        if axes is None:
            row = 0.7 * row + 0.3 * g**2
        else:
            row = 0.7 * row + 0.3 * np.mean(g**2, axis=axes[0], keepdims=True)
            col = 0.7 * col + 0.3 * np.mean(g**2, axis=axes[1], keepdims=True)
    assert {leaf.dtype for leaf in jax.tree.leaves(stats)} == {jnp.dtype("float32")}
    for ours, expected in [
        *zip(stats.momenta, m, strict=True),
        (stats.second_moment, v),
        (stats.row[0], row),
    ]:
        assert ours.shape == np.shape(expected)
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-7)
    if axes is not None:
        assert stats.col[0].shape == col.shape
        np.testing.assert_allclose(stats.col[0], col, rtol=1e-5)


def test_factored_moments_have_a_floor():
    stats = update_stats(init_stats(jnp.zeros((2, 3)), 2, 1), jnp.zeros((2, 3)), **DECAYS)
    np.testing.assert_allclose(stats.row[0], 0.3 * FACTORED_FLOOR, rtol=1e-6)
    np.testing.assert_allclose(stats.col[0], 0.3 * FACTORED_FLOOR, rtol=1e-6)
    np.testing.assert_array_equal(stats.second_moment, 0.0)


def test_inverse_factors_recover_a_second_moment_of_rank_one():
    """Adafactor is exact there: v = a bᵀ, and the product of the factors is 1/sqrt(v)."""
    a, b = jnp.asarray([1.0, 4.0, 9.0])[:, None], jnp.asarray([0.1, 2.0, 3.0, 0.5, 7.0])[None, :]
    v = a * b
    row = jnp.mean(v, axis=1, keepdims=True)
    col = jnp.mean(v, axis=0, keepdims=True)
    row_factor, col_factor = inverse_factors(row, col, v.shape)
    np.testing.assert_allclose(row_factor * col_factor, v**-0.5, rtol=1e-5)
    row_factor, col_factor = inverse_factors(row.T, col.T, v.T.shape)
    np.testing.assert_allclose(row_factor * col_factor, v.T**-0.5, rtol=1e-5)


def test_inverse_factors_need_two_axes():
    with pytest.raises(AssertionError, match=r"shape \(3,\)"):
        inverse_factors(jnp.ones(3), jnp.ones(()), (3,))


def test_inverse_root_has_finite_derivatives_where_gradients_were_zero():
    """There 1 / sqrt has the slope -5e44, and the square of a gradient of zero changes by zero."""

    def inverse(grad):
        return inverse_root(jnp.square(grad) + FACTORED_FLOOR)

    grad = jnp.asarray([0.0, 1.0, -2.0])
    expected = [0.0, -1.0, 0.25]
    np.testing.assert_allclose(inverse(grad), [1e15, 1.0, 0.5], rtol=1e-6)
    np.testing.assert_allclose(jax.jvp(inverse, (grad,), (jnp.ones(3),))[1], expected, rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda x: jnp.sum(inverse(x)))(grad), expected, rtol=1e-6)


def test_finite_gradient():
    grad = jnp.asarray([1.0, -2000.0, jnp.nan, jnp.inf, -jnp.inf, 1000.0], jnp.bfloat16)
    clean = finite_gradient(grad, 1000.0)
    assert clean.dtype == jnp.float32
    np.testing.assert_array_equal(clean, [1.0, -1000.0, 0.0, 1000.0, -1000.0, 1000.0])


def test_rms_has_a_floor_inside_the_root():
    np.testing.assert_allclose(
        rms(jnp.asarray([[3.0, 4.0], [0.0, 0.0]]), 1.0), np.sqrt(25 / 4 + 1), rtol=1e-6
    )
    np.testing.assert_allclose(rms(jnp.zeros(()), 1e-9), 3.1622776e-05, rtol=1e-5)
