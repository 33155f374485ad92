import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def optax_promotes_types():
    """optax's Adam and others mix number types, which the strict mode of these tests forbids."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
