"""Strict numerics for every test, and the fixtures that many of them share."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def theta():
    """Weights of Celo of which none is zero, so that every part of the optimizer matters."""
    from celo.optimizers import Celo

    fresh = Celo().init_theta(jax.random.key(1))
    leaves, treedef = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    noisy = [leaf + 0.1 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(treedef, noisy)
