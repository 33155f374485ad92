"""What releases of jaxlib get wrong is right in programs of ours."""

import os
from importlib import metadata

import jax
import jax.numpy as jnp
import pytest

from celo._jaxlib import avoid_faults

OFF = "--xla_cpu_experimental_ynn_fusion_type="


def test_many_sums_of_squares_are_right():
    """Of jaxlib 0.10.2 the last of them is 2 per mille too low."""
    first = jnp.arange(32_769, dtype=jnp.float32)
    rows = jnp.stack((first, jnp.zeros_like(first), jnp.zeros_like(first)), axis=1)
    sums = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3) @ row) ** 2)))(rows)
    assert sums[-1] == 2.0**30


def test_products_of_seven_axes_are_summed():
    """Of jaxlib 0.10.2 the process dies."""
    x = jnp.ones((3, 1, 2, 2, 8, 8, 8))
    assert (jax.jit(lambda a, b: jnp.sum(a * b, axis=3))(x, x) == 2.0).all()


@pytest.mark.parametrize(
    ("version", "before", "after"),
    [
        ("0.10.2", None, OFF),
        ("0.11.0", "--xla_other=1", f"--xla_other=1 {OFF}"),
        ("0.10.2", f"{OFF}dot", f"{OFF}dot"),  # what the user says counts
        ("0.10.1", None, None),
        ("0.12.0", "--xla_other=1", "--xla_other=1"),
    ],
)
def test_flags_change_where_a_release_is_faulty(monkeypatch, version, before, after):
    monkeypatch.setattr(metadata, "version", {"jaxlib": version}.get)
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        monkeypatch.setenv("XLA_FLAGS", before)
    avoid_faults()
    assert os.environ.get("XLA_FLAGS") == after
