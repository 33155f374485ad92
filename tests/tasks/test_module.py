"""Module tasks: training against evaluation, dropout, several data sets."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.data import Split
from celo.tasks import Examples, ModuleFamily, ModuleTask, Reparametrisation, cross_entropy
from celo.tasks._augment import Reparametrised
from celo.tasks._models.convnets import ConvNet
from celo.tasks._models.layers import Perceptron


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, (count, 4, 4, 1)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 3, count), jnp.int32)


@pytest.fixture(scope="module")
def normed():
    """(task with a batch norm, its parameters, its state)."""
    inputs = jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32)
    task = ModuleTask(jnp.int32(0), ConvNet(3, (2,), "batch"), cross_entropy, inputs)
    return task, *jax.jit(task.init)(jax.random.key(0))


def test_training_uses_and_averages_the_statistics_of_the_batch(normed, key):
    task, params, state = normed
    _, (new, _) = jax.jit(task.loss)(params, state, key, images(8))
    (old,), (now,) = state["batch_stats"].values(), new["batch_stats"].values()
    np.testing.assert_array_equal(old["mean"], 0)
    np.testing.assert_array_equal(old["var"], 1)
    x = nn.Conv(2, (3, 3), strides=2).apply({"params": params["Conv_0"]}, images(8)[0])
    np.testing.assert_allclose(now["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(now["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-4)


def test_evaluation_uses_the_averages_alone(normed, key):
    """So that an example's loss does not depend on the others of its batch, as it does in training."""
    task, params, state = normed
    whole = images(8)
    halves = [jax.tree.map(lambda x, part=part: x[part], whole) for part in (slice(4), slice(4, 8))]
    evaluate = jax.jit(task.evaluate)
    expected = np.mean([evaluate(params, state, key, half)[0] for half in halves])
    np.testing.assert_allclose(evaluate(params, state, key, whole)[0], expected, rtol=1e-5)
    loss = jax.jit(lambda batch: task.loss(params, state, key, batch)[0])
    assert abs(loss(whole) - np.mean([loss(half) for half in halves])) > 1e-3
    other = jax.tree.map(lambda x: x + 1, state)
    assert evaluate(params, other, key, whole)[0] != evaluate(params, state, key, whole)[0]


def test_other_units_evaluate_alike(normed, key):
    task, params, state = normed
    factors = Reparametrisation("tensor", 0.1, 10.0).sample(key, params)
    there = jax.tree.map(jnp.divide, params, factors)
    found = Reparametrised(task, factors).evaluate(there, state, key, images(8))
    expected = task.evaluate(params, state, key, images(8))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4), found, expected)


def test_dropout_is_of_the_key_and_of_training_alone(key):
    inputs = jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32)
    task = ModuleTask(jnp.int32(0), Perceptron((16,), 3, dropout=0.5), cross_entropy, inputs)
    params, state = task.init(key)
    assert state == ()
    keys, batch = jax.random.split(key), images(8)
    losses = [task.loss(params, state, k, batch)[0] for k in (keys[0], keys[0], keys[1])]
    assert losses[0] == losses[1] != losses[2]
    assert task.evaluate(params, state, keys[0], batch)[0] == task.evaluate(params, state, keys[1], batch)[0]


def test_each_data_set_of_a_family_is_a_member(key):
    x = np.arange(6, dtype=np.float32)[:, None]
    splits = dict.fromkeys(("train", "valid", "test"), Split(x, np.arange(6, dtype=np.int32)))
    sizes = dict.fromkeys(splits, (2, 4))
    source = Examples(splits, 6, 30, shift=np.zeros(2), scale=np.ones(2), sizes=sizes)
    family = ModuleFamily(("few", "many"), source, Perceptron((), 6), cross_entropy, loss_cap=3.0)
    assert family.members == ("few", "many")
    draw = family.draw(key, 1)[0]
    for member, labels in enumerate(({0, 1}, {2, 3, 4, 5})):
        task = family.sample(key, jnp.int32(member))
        assert set(family.batch(task, "train", draw)[1].tolist()) == labels
    assert ModuleFamily("one", source, Perceptron((), 6), cross_entropy, 3.0).members == ("one",)
