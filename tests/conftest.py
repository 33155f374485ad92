"""Strict promotion for every test (nothing may rest on a silent change of dtype), and shared fixtures."""

import jax
import pytest

jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def key():
    return jax.random.key(0)


@pytest.fixture(scope="session")
def noisy_theta():
    """A function: learned optimizer -> θ of which no number is zero, so that all of it matters."""

    def make(optimizer, seed=1):
        key_init, key_noise = jax.random.split(jax.random.key(seed))
        leaves, treedef = jax.tree.flatten(optimizer.init_theta(key_init))
        keys = jax.random.split(key_noise, len(leaves))
        noise = [0.1 * jax.random.normal(k, leaf.shape) for k, leaf in zip(keys, leaves, strict=True)]
        return jax.tree.unflatten(treedef, [leaf + n for leaf, n in zip(leaves, noise, strict=True)])

    return make


@pytest.fixture(scope="session")
def theta(noisy_theta):
    """θ of Celo without zeros."""
    from celo.optimizers import Celo

    return noisy_theta(Celo())
