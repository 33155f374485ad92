"""Module tasks: training against evaluation, initialisation, convolution; tasks named by their place."""

import sys
import types

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.tasks import Quadratics, Reparametrisation, task_at
from celo.tasks._augment import Reparametrised
from celo.tasks._models.convnets import ConvNet
from celo.tasks._models.coordinates import Siren
from celo.tasks._models.patches import convolve, split_patches
from celo.tasks._models.perceptrons import Perceptron
from celo.tasks._module import ModuleTask
from celo.tasks._objectives import (
    colour_error,
    cross_entropy,
    negative_elbo,
    next_character,
    reconstruction_error,
    squared_error,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")


def images(count, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.normal(3.0, 2.0, (count, 4, 4, 1)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 3, count), jnp.int32)


@pytest.fixture(scope="module")
def normed():
    """(task with a batch norm, its parameters, its state)."""
    inputs = jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32)
    task = ModuleTask(ConvNet(3, (2,), "batch"), cross_entropy, inputs)
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


def test_a_task_without_its_own_evaluation_has_that_of_its_loss(key):
    task = Quadratics().sample(key, jnp.int32(0))
    params, state = task.init(key)
    assert task.evaluate(params, state, key, ()) == (task.loss(params, state, key, ())[0], {})


def test_dropout_is_of_the_key_and_of_training_alone(key):
    inputs = jax.ShapeDtypeStruct((8, 4, 4, 1), jnp.float32)
    task = ModuleTask(Perceptron((16,), 3, dropout=0.5), cross_entropy, inputs)
    params, state = task.init(key)
    assert state == ()
    keys, batch = jax.random.split(key), images(8)
    losses = [task.loss(params, state, k, batch)[0] for k in (keys[0], keys[0], keys[1])]
    assert losses[0] == losses[1] != losses[2]
    assert task.evaluate(params, state, keys[0], batch)[0] == task.evaluate(params, state, keys[1], batch)[0]


@pytest.mark.parametrize("size", [(5, 6), (8, 8)])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
@pytest.mark.parametrize("extent", [(1, 1), (3, 3), (2, 4)])
def test_convolution_is_that_of_xla(size, strides, extent, key):
    x, kernel = (jax.random.normal(key, shape) for shape in ((2, *size, 3), (*extent, 3, 4)))
    dimensions = ("NHWC", "HWIO", "NHWC")
    expected = jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=dimensions)
    np.testing.assert_allclose(convolve(x, kernel, strides, "SAME"), expected, rtol=1e-4, atol=1e-5)


def test_patches_are_squares_row_by_row():
    x = jnp.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    patches = split_patches(x, 2)
    assert patches.shape == (2, 6, 4)
    np.testing.assert_array_equal(patches[1, 4], x[1, 2:4, 2:4, 0].ravel())


def test_siren_keeps_its_activations_spread():
    """What its initialisation is for: sines of every layer go over their whole range."""
    module = Siren((64, 64, 64))
    places = jax.random.uniform(jax.random.key(1), (500, 2), minval=-1.0, maxval=1.0)
    variables = jax.jit(lambda key: module.init(key, places, train=False))(jax.random.key(0))
    x = places
    for layer in range(3):
        weights = variables["params"][f"Dense_{layer}"]
        x = jnp.sin(30 * (x @ weights["kernel"] + weights["bias"]))
        assert 0.6 < float(x.std()) < 0.8


# Objectives, by hand


def test_objectives():
    loss, metrics = squared_error(jnp.asarray([[1.0], [3.0]]), (None, jnp.asarray([[0.0], [1.0]])))
    assert (loss, metrics["explained_variance"]) == (2.5, -1.5)
    loss, metrics = colour_error(jnp.full((2, 3), 0.1), (None, jnp.zeros((2, 3))))
    np.testing.assert_allclose([loss, metrics["psnr"]], [0.01, 20.0], rtol=1e-5)
    loss, _ = reconstruction_error(jnp.ones((2, 4)), (jnp.zeros((2, 2, 2, 1)), jnp.zeros(2, jnp.int32)))
    assert loss == 1.0
    logits = jnp.zeros((1, 2, 4)).at[0, 0, 3].set(50.0)
    loss, metrics = next_character(logits, (None, jnp.asarray([[3, 1]])))
    np.testing.assert_allclose([loss, metrics["bits_per_character"]], [np.log(4) / 2, 1.0], rtol=1e-5)
    np.testing.assert_allclose([metrics["perplexity"], metrics["accuracy"]], [2.0, 0.5], rtol=1e-5)


def test_negative_elbo():
    logits, mean, log_variance = jnp.zeros((1, 5)), jnp.asarray([[2.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    loss, metrics = negative_elbo((logits, mean, log_variance), (jnp.full((1, 5, 1, 1), 0.3), None))
    divergence = 0.5 * 2.0**2 + 0.5 * (np.e - 1 - 1)
    np.testing.assert_allclose(metrics["divergence"], divergence, rtol=1e-5)
    np.testing.assert_allclose(-metrics["elbo"], 5 * np.log(2) + divergence, rtol=1e-5)
    np.testing.assert_allclose(loss, -metrics["elbo"] / 5, rtol=1e-6)


# A task by its place


@pytest.fixture
def place(monkeypatch):
    module = types.ModuleType("my_tasks")
    module.ready, module.maker, module.number = Quadratics(dim=2), Quadratics, 3
    monkeypatch.setitem(sys.modules, "my_tasks", module)
    return "my_tasks"


def test_a_task_of_the_users(place):
    assert task_at(f"{place}:ready") == Quadratics(dim=2)
    assert task_at(f"{place}:maker", dim=5) == Quadratics(dim=5)


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        (":numbr", "unknown attribute of my_tasks 'numbr'; known, nearest first: number"),
        (":number", "task 'my_tasks:number' is a int: name a TaskFamily"),
        ("", "write one of your own as package.module:attribute"),
        (".deeper:task", "no module"),
    ],
)
def test_no_task_there(place, attribute, message):
    with pytest.raises(CeloError, match=message):
        task_at(f"{place}{attribute}")


def test_missing_flax_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flax", None)
    monkeypatch.delitem(sys.modules, "celo.tasks._models.mixer", raising=False)
    monkeypatch.delitem(sys.modules, "flax.linen")
    with pytest.raises(CeloError, match=r"needs flax: pip install 'celo\[suite\]'"):
        task_at("celo.tasks._models.mixer:classifier", "digits")


def test_an_error_inside_the_users_module_is_shown_as_it_is(tmp_path, monkeypatch):
    (tmp_path / "broken_tasks.py").write_text("import not_installed_anywhere\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="not_installed_anywhere"):
        task_at("broken_tasks:task")
