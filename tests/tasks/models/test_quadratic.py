"""Quadratics against what can be worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.tasks import Quadratics
from celo.tasks._base import SPLITS, value_and_grad
from celo.tasks._models.quadratic import Quadratic


def test_loss_and_gradient(key):
    task = Quadratic(curvature=jnp.asarray([1.0, 4.0]), centre=jnp.asarray([2.0, -1.0]))
    loss, grads, model_state = value_and_grad(task, {"x": jnp.asarray([5.0, 1.0])}, (), key, ())
    np.testing.assert_allclose(loss, 0.5 * (1 * 9 + 4 * 4))
    np.testing.assert_allclose(grads["x"], [3.0, 8.0])
    assert model_state == ()
    loss, grads, _ = value_and_grad(task, {"x": task.centre}, (), key, ())
    assert float(loss) == 0
    np.testing.assert_array_equal(grads["x"], 0)


def test_gradient_descent_contracts_as_it_should(key):
    """(1 - rate * h) for each step and coordinate."""
    task = Quadratics(dim=4, condition=5.0).sample(key, jnp.int32(0))
    params, _ = task.init(key)
    start = params["x"]
    for _ in range(10):
        _, grads, _ = value_and_grad(task, params, (), key, ())
        params = jax.tree.map(lambda p, g: p - 0.1 * g, params, grads)
    expected = task.centre + (1 - 0.1 * task.curvature) ** 10 * (start - task.centre)
    np.testing.assert_allclose(params["x"], expected, rtol=1e-4, atol=1e-5)


def test_sample():
    family = Quadratics(dim=1000, condition=10.0)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    assert 1.0 <= task.curvature.min() < 1.1
    assert 9.0 < task.curvature.max() <= 10.0 * (1 + 1e-5)
    np.testing.assert_allclose(np.log10(task.curvature).mean(), 0.5, atol=0.05)  # log-uniform
    np.testing.assert_allclose(task.centre.std(), 1.0, atol=0.1)
    same = family.sample(jax.random.key(0), jnp.int32(0))
    jax.tree.map(np.testing.assert_array_equal, task, same)
    other = family.sample(jax.random.key(1), jnp.int32(0))
    assert np.any(other.centre != task.centre)
    draws = family.draw(jax.random.key(0), 3)
    now = jax.tree.map(lambda draw: draw[0], draws)
    assert [family.batch(task, split, now) for split in SPLITS] == [(), (), ()]


def test_samples_can_be_vmapped_and_are_leaves_only():
    family = Quadratics(dim=3)
    keys = jax.random.split(jax.random.key(0), 5)
    tasks = jax.vmap(family.sample)(keys, jnp.zeros(5, jnp.int32))
    assert tasks.centre.shape == (5, 3)
    params, _ = jax.vmap(lambda task, key: task.init(key))(tasks, keys)
    losses, _ = jax.vmap(lambda task, p: task.loss(p, (), keys[0], ()))(tasks, params)
    assert losses.shape == (5,)
    alone = family.sample(keys[2], jnp.int32(0))
    np.testing.assert_allclose(losses[2], alone.loss(alone.init(keys[2])[0], (), keys[0], ())[0], rtol=1e-6)


@pytest.mark.parametrize(("settings", "shown"), [({"dim": 0}, "0, 10.0"), ({"condition": 0.5}, "10, 0.5")])
def test_bad_settings(settings, shown):
    with pytest.raises(CeloError, match=f"dim >= 1 and condition >= 1, got {shown}"):
        Quadratics(**settings)
