"""Learning to optimize as a task: the loss of an inner training, and its gradient through all of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.evaluate._run.learned_optimizer_task import Episode, InnerTraining, InnerTrainings
from celo.optimizers import AdafacMLP
from celo.tasks import ImageMLP
from celo.tasks._base import value_and_grad

STEPS = 4
KEY = jax.random.key(0)


@pytest.fixture(scope="module")
def small():
    """(task, weights of AdaFac-MLP, episode): a linear classifier of four numbers into three classes."""
    task = InnerTraining(ImageMLP(jnp.int32(0), (4, 3)))
    x = 0.3 * jax.random.normal(jax.random.key(1), (STEPS, 8, 4))
    y = jax.random.randint(jax.random.key(2), (STEPS, 8), 0, 3)
    theta = task.init(KEY)[0]["adafac_mlp"]
    alive = {name: theta[name] + 1.0 for name in ("b0", "b1")}  # units with something to say
    # So that a step is of a tenth, and not of a thousandth.
    return task, {"adafac_mlp": theta | alive | {"w2": 100 * theta["w2"]}}, Episode(KEY, x, y)


@pytest.fixture(scope="module")
def loss(small):
    """A function: weights -> (loss, last loss); compiled once."""
    task, _, episode = small

    @jax.jit
    def run(theta):
        value, (_, metrics) = task.loss(theta, (), KEY, episode)
        return value, metrics["last_loss"]

    return run


@pytest.mark.slow
def test_the_loss_is_the_mean_over_the_steps_of_a_training_by_adafac_mlp(small, loss):
    """Step by step, each with the batch of its own."""
    task, theta, episode = small
    learned = AdafacMLP()

    @jax.jit
    def step(inner, state, batch):
        value, grads, _ = value_and_grad(task.inner, inner, (), KEY, batch)
        updates, state = learned.update(theta, grads, state, inner, value=value)
        return jax.tree.map(jnp.add, inner, updates), state, value

    inner, _ = task.inner.init(episode.key)
    state, losses = learned.init(theta, inner, jnp.int32(1)), []
    for t in range(STEPS):
        inner, state, value = step(inner, state, (episode.x[t], episode.y[t]))
        losses.append(float(value))
    assert max(losses) < 1.5 * math.log(3)  # no cap is in the way
    assert len(set(losses)) == STEPS
    np.testing.assert_allclose(loss(theta), [np.mean(losses), losses[-1]], rtol=1e-5)


@pytest.fixture(scope="module")
def along(small, loss):
    """A function: number -> losses that far along a direction of the last layer, which has no corners."""
    _, theta, _ = small
    own = theta["adafac_mlp"]
    outputs = {name: own[name] for name in ("w2", "b2")}
    keys = jax.random.split(jax.random.key(3), 2)
    direction = {
        name: 100 * jax.random.normal(k, x.shape) for k, (name, x) in zip(keys, outputs.items(), strict=True)
    }

    def losses(scale):
        moved = {name: x + scale * direction[name] for name, x in outputs.items()}
        return loss({"adafac_mlp": own | moved})

    return losses


@pytest.mark.slow
def test_the_derivative_is_that_of_the_whole_training(along):
    _, slopes = jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))
    differences = [float(a - b) / 0.04 for a, b in zip(along(0.02), along(-0.02), strict=True)]
    np.testing.assert_allclose(slopes, differences, rtol=0.02)
    assert min(np.abs(slopes)) > 1e-3  # it is not nothing that is compared


@pytest.mark.slow  # compiles for half a minute: the derivative of each weight is a sum of its own
def test_back_propagation_gives_the_derivative(along):
    _, slopes = jax.jvp(along, (jnp.zeros(()),), (jnp.ones(()),))
    np.testing.assert_allclose(jax.grad(lambda scale: along(scale)[0])(0.0), slopes[0], rtol=1e-3)


def test_an_optimizer_that_stands_still_pays_what_the_start_costs(small, loss):
    task, theta, episode = small
    inner, _ = task.inner.init(episode.key)
    batches = zip(episode.x, episode.y, strict=True)
    costs = [float(task.inner.loss(inner, (), KEY, batch)[0]) for batch in batches]
    np.testing.assert_allclose(
        loss(jax.tree.map(jnp.zeros_like, theta)), [np.mean(costs), costs[-1]], rtol=1e-5
    )


def test_no_step_of_an_inner_training_costs_more_than_the_cap(small, loss):
    """Also of weights that ruin what they train: the first step alone is at what the start costs."""
    task, theta, episode = small
    cap = 1.5 * math.log(3)
    inner, _ = task.inner.init(episode.key)
    first = float(task.inner.loss(inner, (), KEY, (episode.x[0], episode.y[0]))[0])
    most = (first + (STEPS - 1) * cap) / STEPS
    mean, last = loss(jax.tree.map(lambda p: p * np.nan, theta))
    assert np.isnan(last)
    np.testing.assert_allclose(mean, most, rtol=1e-5)
    wild = theta["adafac_mlp"] | {"w2": theta["adafac_mlp"]["w2"] * jnp.asarray([[1e5, 1.0]])}
    mean, last = loss({"adafac_mlp": wild})
    assert 100 * cap < last < np.inf
    np.testing.assert_allclose(mean, most, rtol=1e-5)


# On the digits that come with scikit-learn


@pytest.fixture(scope="module")
def family():
    return InnerTrainings("digits", steps=STEPS, batch_size=8)


def test_what_is_trained_are_fresh_weights_of_adafac_mlp(family):
    params, _ = family.sample(KEY, jnp.int32(0)).init(KEY)
    jax.tree.map(np.testing.assert_array_equal, params, AdafacMLP().init_theta(KEY))
    assert sum(x.size for x in jax.tree.leaves(params)) == 197


def test_the_family_is_one_task_on_its_set_with_the_cap_of_a_classifier(family):
    assert family.members == ("training on digits",)
    assert family.loss_cap == 1.5 * math.log(10)
    task = family.sample(KEY, jnp.int32(0))
    assert task.inner.layers == (64, 32, 10)


def test_episodes_have_starts_and_batches_of_their_own_from_the_split_they_are_of(family):
    task = family.sample(KEY, jnp.int32(0))
    keys, draws = family.draw(jax.random.key(3), 2)
    assert draws.shape == (2, STEPS, 8)
    assert len(np.unique(draws)) == draws.size
    starts = [task.inner.init(key)[0]["layer0"]["w"] for key in keys]
    assert (starts[0] != starts[1]).any()
    train, valid = (family.batch(task, split, (keys[0], draws[0])) for split in ("train", "valid"))
    assert train.x.shape == (STEPS, 8, 64)
    assert train.y.shape == (STEPS, 8)
    images = [{row.tobytes() for row in np.asarray(one.x).reshape(-1, 64)} for one in (train, valid)]
    assert not images[0] & images[1]
