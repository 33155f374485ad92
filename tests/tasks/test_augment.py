"""Reparametrisation: the same problem in other units."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.tasks import ImageMLP, Quadratics, Reparametrisation
from celo.tasks._augment import LEVELS, Reparametrised
from celo.tasks._base import value_and_grad

value_and_grad = jax.jit(value_and_grad)

SHAPES = {"w": (3, 2), "b": (2,), "gain": ()}


def params():
    return {name: jnp.zeros(shape) for name, shape in SHAPES.items()}


@pytest.fixture(scope="module")
def plain():
    """A small perceptron and a batch for it."""
    task = ImageMLP(jnp.int32(0), (4, 3, 5))
    batch = jax.random.normal(jax.random.key(3), (6, 4)), jnp.arange(6) % 5
    return task, batch


@pytest.mark.parametrize("level", LEVELS)
def test_same_loss_at_the_matching_start_and_gradient_times_factor(plain, level, key):
    task, batch = plain
    start, _ = task.init(key)
    factors = Reparametrisation(level, 0.01, 100.0).sample(jax.random.key(5), start)
    other = Reparametrised(task, factors)
    start_there, model_state = other.init(key)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), start_there, divided(start, factors)
    )
    loss, grads, _ = value_and_grad(task, start, (), key, batch)
    loss_there, grads_there, _ = value_and_grad(other, start_there, model_state, key, batch)
    np.testing.assert_allclose(loss_there, loss, rtol=1e-5)
    jax.tree.map(
        lambda g_there, g, s: np.testing.assert_allclose(g_there, s * g, rtol=1e-4, atol=1e-6 * np.max(s)),
        grads_there,
        grads,
        factors,
    )
    if level != "none":
        assert abs(float(jax.tree.leaves(factors)[0].ravel()[0]) - 1) > 0.1


def divided(params, factors):
    return jax.tree.map(lambda q, s: np.asarray(q) / np.asarray(s), params, factors)


def test_who_shares_a_factor():
    """All shapes broadcast to the parameters they belong to."""
    factors = {level: Reparametrisation(level).sample(jax.random.key(0), params()) for level in LEVELS}
    assert all(jax.tree.structure(f) == jax.tree.structure(params()) for f in factors.values())
    assert {name: f.shape for name, f in factors["parameter"].items()} == SHAPES
    for level in ("none", "global", "tensor"):
        assert all(leaf.shape == () for leaf in factors[level].values())
    assert {float(leaf) for leaf in factors["none"].values()} == {1.0}
    assert len({float(leaf) for leaf in factors["global"].values()}) == 1
    assert len({float(leaf) for leaf in factors["tensor"].values()}) == 3
    single = np.concatenate([np.ravel(leaf) for leaf in factors["parameter"].values()])
    assert len(np.unique(single)) == len(single) == 9


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_factors_are_log_uniform(level):
    low, high, draws = 1e-3, 1e2, 2000
    keys = jax.random.split(jax.random.key(0), draws)
    factors = jax.vmap(lambda key: Reparametrisation(level, low, high).sample(key, params()))(keys)
    for name, leaf in factors.items():
        samples = np.asarray(leaf).reshape(draws, -1)[:, -1]
        assert low * (1 - 1e-5) <= samples.min() < 2 * low, name
        assert high / 2 < samples.max() <= high * (1 + 1e-5), name
        position = np.sort((np.log(samples) - np.log(low)) / (np.log(high) - np.log(low)))
        distance = np.abs(position - (np.arange(draws) + 0.5) / draws).max()
        assert distance < 1.95 / np.sqrt(draws), name  # Kolmogorov and Smirnov, 0.1 %


def test_a_range_of_one_number():
    factors = Reparametrisation("parameter", 2.0, 2.0).sample(jax.random.key(0), params())
    jax.tree.map(lambda s: np.testing.assert_allclose(s, 2.0, rtol=1e-6), factors)


def test_it_works_on_shapes_and_in_half_precision(key):
    structs = jax.eval_shape(params)
    drawn = Reparametrisation("tensor").sample(key, structs)
    jax.tree.map(np.testing.assert_array_equal, drawn, Reparametrisation("tensor").sample(key, params()))
    task, factors = Quadratics(dim=3).sample(key, jnp.int32(0)), {"x": jnp.float32(4.0)}
    other = Reparametrised(task, factors)
    assert other.init(key)[0]["x"].dtype == jnp.float32


@pytest.mark.parametrize(
    "bounds", [(0.0, 1.0), (-1.0, 1.0), (2.0, 1.0), (1.0, np.inf), (np.nan, 1.0), (1.0, np.nan)]
)
def test_bad_range(bounds):
    low, high = bounds
    with pytest.raises(CeloError, match=f"0 < low <= high < inf, got low={low}, high={high}"):
        Reparametrisation("global", low, high)


def test_bad_level():
    with pytest.raises(CeloError, match=r"unknown augmentation level 'globl'; known, nearest first: global"):
        Reparametrisation("globl")
