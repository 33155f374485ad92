"""Whole runs: optax's own promotion of dtypes, which is not strict, and compilation that is quick."""

import jax
import pytest


@pytest.fixture(scope="module", autouse=True)
def users_dtype_promotion():
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.fixture(scope="module", autouse=True)
def quick_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
