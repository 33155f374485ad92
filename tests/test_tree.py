"""Arithmetic on pytrees against the same on the numbers in one row."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo import _tree as tree

TREE = {"a": jnp.asarray([3.0, -4.0]), "b": {"c": jnp.asarray([[12.0]]), "d": jnp.zeros((0, 2))}}


def row(pytree):
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(pytree)])


@pytest.mark.parametrize("condition", [True, False])
def test_where_takes_all_leaves_of_one_side(condition):
    """Also where the other side is not a number."""
    bad = jax.tree.map(lambda x: x * jnp.nan, TREE)
    yes, no = (TREE, bad) if condition else (bad, TREE)
    chosen = jax.jit(tree.where)(condition, yes, no)
    jax.tree.map(np.testing.assert_array_equal, chosen, TREE)


def test_where_needs_two_trees_of_one_structure():
    with pytest.raises(ValueError, match=r"structure|key"):
        tree.where(True, TREE, {"a": TREE["a"]})


def test_the_norm_is_that_of_all_numbers_in_one_row():
    assert float(tree.norm(TREE)) == 13.0  # 3² + 4² + 12²
    noise = tree.normal_like(jax.random.key(0), {"w": jnp.ones((30, 7)), "b": jnp.ones(7)}, 2.0)
    np.testing.assert_allclose(tree.norm(noise), np.linalg.norm(row(noise)), rtol=1e-5)


@pytest.mark.parametrize("empty", [{}, (), {"w": jnp.zeros((0, 3))}], ids=str)
def test_the_norm_of_nothing_is_zero(empty):
    norm = tree.norm(empty)
    assert (norm.dtype, norm.shape, float(norm)) == (jnp.float32, (), 0.0)


def test_noise_is_normal_independent_and_shaped_like_the_leaves():
    like = {
        "w": jnp.zeros((100, 50)),
        "b": jnp.zeros(5000, jnp.bfloat16),
        "none": jnp.zeros((0,)),
        "s": jnp.ones(()),
    }
    noise = tree.normal_like(jax.random.key(0), like, 0.5)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), noise) == jax.tree.map(
        lambda x: (x.shape, np.dtype("float32")), like
    )
    for leaf in (noise["w"], noise["b"]):
        # To four standard errors; the fourth moment tells a normal from others.
        numbers = np.ravel(leaf) / 0.5
        assert abs(numbers.mean()) < 4 / np.sqrt(5000)
        assert abs(numbers.std() - 1) < 4 / np.sqrt(2 * 5000)
        assert abs((numbers**4).mean() - 3) < 4 * np.sqrt(96 / 5000)
    assert abs(np.corrcoef(np.ravel(noise["w"]), noise["b"])[0, 1]) < 4 / np.sqrt(5000)


def test_noise_is_of_its_key():
    first, again, other = (tree.normal_like(jax.random.key(seed), TREE, 1.0) for seed in (0, 0, 1))
    np.testing.assert_array_equal(row(first), row(again))
    assert (row(first) != row(other)).all()


def test_scaling_keeps_each_leaf_s_dtype_and_multiplies_in_float32():
    mixed = {
        "f": jnp.asarray([1.0, -2.0]),
        "h": jnp.asarray([100.0], jnp.bfloat16),
        "i": jnp.asarray([8], jnp.int32),
    }
    third = tree.scaled(mixed, jnp.float32(1 / 3))
    assert jax.tree.map(lambda x: x.dtype, third) == jax.tree.map(lambda x: x.dtype, mixed)
    np.testing.assert_allclose(third["f"], [1 / 3, -2 / 3], rtol=1e-6)
    # Rounded once, to quarters; a third of bfloat16, 0.334, would give 33.5.
    assert float(third["h"][0]) == 33.25
    assert third["i"].tolist() == [2]


def test_weights_of_two_parts_are_one_theta():
    assert tree.united({"a": {"x": 1}, "b": {"y": 2}}, {"a": {"z": 3}}) == {
        "a": {"x": 1, "z": 3},
        "b": {"y": 2},
    }
