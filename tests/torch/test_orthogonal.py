"""Orthogonalised steps: what a polar factor is, and the same as in JAX."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo._definitions import MUON, POLAR
from celo._kernels import orthogonal
from celo.torch._orthogonal import _brought_near, factor, polar_factor

SHAPES = [(6, 6), (5, 12), (3, 7, 4), (2, 3, 4, 9)]


def matrices(shape, scale=1.0, seed=0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(np.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_what_jax_computes(shape):
    compiled = jax.jit(orthogonal.polar_factor)
    for scale in (1.0, 1e-20, 1e20):
        assert_it_is_what_jax_computes(compiled, matrices(shape, scale))


def assert_it_is_what_jax_computes(compiled, x):
    factor, length = compiled(jnp.asarray(x))
    expected = np.asarray(factor * length[..., None, None])
    np.testing.assert_allclose(
        polar_factor(torch.from_numpy(x)), expected, atol=1e-4 * np.abs(expected).max()
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_muons_factor_is_what_jax_computes(shape):
    x = matrices(shape, 1e-3)
    expected, _ = jax.jit(lambda x: orthogonal.polar_factor(x, MUON))(x)
    np.testing.assert_allclose(factor(torch.from_numpy(x), MUON), expected, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_singular_values_are_nearly_equal_and_the_length_is_kept(shape):
    x = torch.from_numpy(matrices(shape))
    result = polar_factor(x)
    values = torch.linalg.svdvals(result)
    assert (values.amax(-1) / values.amin(-1) < 1.2).all()
    torch.testing.assert_close(torch.linalg.matrix_norm(result), torch.linalg.matrix_norm(x))


@pytest.mark.parametrize("iteration", [POLAR, MUON], ids=["polar", "muon"])
@pytest.mark.parametrize("scale", [1e-4, 1.0, 100.0])
def test_half_precision_comes_near_single(iteration, scale):
    """As on a GPU, with singular values over two decades."""
    left, _, right = np.linalg.svd(matrices((48, 80)), full_matrices=False)
    x = torch.from_numpy(scale * left * np.logspace(0, -2, 48, dtype=np.float32) @ right)[None]
    single, half = (_brought_near(x, iteration, half=half) for half in (False, True))
    assert (half - single).norm() < 0.02 * single.norm()
    assert torch.equal(_brought_near(torch.zeros_like(x), iteration, half=False), torch.zeros_like(x))


def test_directions_are_those_of_the_matrix():
    x = matrices((7, 5))
    left, _, right = np.linalg.svd(x, full_matrices=False)
    factor = polar_factor(torch.from_numpy(x)).numpy()
    cosine = (factor * (left @ right)).sum() / np.linalg.norm(factor) / np.linalg.norm(left @ right)
    assert cosine > 0.995


def test_of_a_stack_each_is_treated_apart():
    x = torch.from_numpy(matrices((3, 6, 4))) * torch.tensor([1.0, 1e-8, 1e6]).view(3, 1, 1)
    together = polar_factor(x)
    for one, alone in zip(together, x, strict=True):
        torch.testing.assert_close(one, polar_factor(alone), rtol=1e-5, atol=1e-5 * float(alone.abs().max()))


@pytest.mark.parametrize("number", [0.0, 1e-35, 1e38])
def test_a_matrix_that_cannot_be_scaled_stays_as_it_is(number):
    x = torch.full((2, 5, 5), number)
    x[1] = torch.from_numpy(matrices((5, 5)))
    result = polar_factor(x)
    assert torch.equal(result[0], x[0])
    assert not torch.equal(result[1], x[1])  # its neighbour is not left out
    assert torch.isfinite(result).all()
