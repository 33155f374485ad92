"""Hand-made optimizers: what they are called, what they do, and the schedule they come under."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo.evaluate._run.baselines import ANSWERS, BASELINES, definition
from celo.evaluate._run.contestants import resolve_contestant


def updates_of(tx, count, gradient=1.0):
    """[count] updates of one number at 1 under equal gradients."""
    params, found = jnp.ones(1), []
    state = tx.init(params)
    update = jax.jit(tx.update)
    for _ in range(count):
        step, state = update(jnp.full(1, gradient), state, params)
        found.append(float(step[0]))
    return np.array(found)


def test_momentum_is_a_sum_of_gradients_that_fade():
    np.testing.assert_allclose(updates_of(BASELINES["sgd"](0.1, 5), 5, 2.0), [-0.2] * 5, rtol=1e-6)
    sums = np.cumsum(0.9 ** np.arange(5))
    np.testing.assert_allclose(updates_of(BASELINES["momentum"](0.1, 5), 5, 2.0), -0.2 * sums, rtol=1e-5)


@pytest.mark.parametrize(("num_steps", "warmup"), [(100, 5), (10, 1), (2000, 100), (30, 2)])
def test_the_cosine_warms_up_over_a_twentieth_and_ends_at_zero(num_steps, warmup):
    t = np.arange(num_steps + 3)
    done = np.clip((t - warmup) / (num_steps - warmup), 0, 1)
    factor = np.where(t < warmup, t / warmup, (1 + np.cos(math.pi * done)) / 2)
    found = updates_of(BASELINES["sgd_cosine"](0.5, num_steps), len(t))
    np.testing.assert_allclose(found, -0.5 * factor, atol=1e-5)


def test_a_cosine_is_a_factor_on_the_update_and_not_on_the_rate_inside():
    """Of what an optimizer does with its rate besides, such as decay, it does the same as without it."""
    plain, cosine = (updates_of(BASELINES[name](1e-2, 40), 10) for name in ("adamw", "adamw_cosine"))
    factor = updates_of(BASELINES["sgd_cosine"](1.0, 40), 10)
    np.testing.assert_allclose(cosine, -plain * factor, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", [(32, 64), (64, 16), (24, 24)])
def test_steps_of_muon_by_moonlight_are_a_fifth_of_the_rate_whatever_the_shape(shape):
    """0.2 √max(m, n) times a matrix whose singular values are near 1: as long as AdamW's, it says."""
    grads = {"w": jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)}
    found = {}
    for name in ("muon", "muon_moonlight"):
        tx = BASELINES[name](0.1, 10)
        updates, _ = tx.update(grads, tx.init(grads), grads)
        found[name] = updates["w"]
    assert float(jnp.sqrt(jnp.mean(jnp.square(found["muon_moonlight"])))) == pytest.approx(0.02, rel=0.25)
    ratio = found["muon_moonlight"] / found["muon"]
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-4)  # another length alone


@pytest.mark.parametrize("name", ["adam_cosine", "schedule_free_adamw"])
def test_a_horizon_of_one_step_is_no_error(name):
    assert np.isfinite(updates_of(BASELINES[name](1e-3, 1), 3)).all()


def test_there_is_a_cosine_of_each_but_of_those_with_a_schedule_of_their_own():
    plain = {name for name in BASELINES if not name.endswith("_cosine")}
    assert {name.removesuffix("_cosine") for name in BASELINES} == plain
    assert plain - {name.removesuffix("_cosine") for name in set(BASELINES) - plain} == {
        "schedule_free_adamw"
    }


def test_the_answer_of_a_schedule_free_optimizer_is_its_average():
    """Gradients are taken at y = 0.1 z + 0.9 x, between a fast iterate z and its average x, the answer."""
    tx = BASELINES["schedule_free_adamw"](0.1, 40)
    params = {"x": jnp.asarray([3.0, -1.0])}
    state, fast = tx.init(params), [params["x"]]
    for _ in range(30):
        updates, state = tx.update(params, state, params)  # of half the sum of squares
        params = optax.apply_updates(params, updates)
        fast.append(state.z["x"])
    answer = ANSWERS["schedule_free_adamw"](state, params)["x"]
    np.testing.assert_allclose(answer, (params["x"] - 0.1 * state.z["x"]) / 0.9, rtol=1e-4, atol=1e-5)
    assert (np.abs(answer - np.mean(fast, axis=0)) < np.abs(answer - fast[-1])).all()
    assert set(ANSWERS) <= set(BASELINES)


def test_a_definition_is_of_the_function_and_its_own_settings():
    adam = definition("adam")
    assert adam["optimizer"] == "optax.adam"
    assert {"b1=0.9", "b2=0.999", "eps=1e-08"} <= set(adam["settings"].split(", "))
    assert "learning_rate" not in adam["settings"]
    assert definition("adam_cosine") == adam | {"schedule": definition("momentum_cosine")["schedule"]}


def test_every_baseline_tells_its_settings():
    told = {name: dataclasses.asdict(resolve_contestant(name).facts) for name in BASELINES}
    assert told["momentum_cosine"]["optimizer"] == "optax.sgd"
    assert "momentum=0.9, nesterov=False" in told["momentum_cosine"]["settings"]
    assert told["momentum_cosine"]["schedule"] == "linear warm-up over 5% of the steps, then a cosine to 0"
    assert told["momentum"]["schedule"] == "constant"
    assert told["muon"]["optimizer"] == "optax.contrib.muon"
    assert told["soap_cosine"]["optimizer"] == "celo.transforms.soap"
    assert "b1=0.95, b2=0.95, shampoo_beta=None, eps=1e-08" in told["soap"]["settings"]
    assert "precondition_frequency=10, max_precond_dim=10000" in told["soap"]["settings"]
    assert "warmup_steps=5% of the steps" in told["schedule_free_adamw"]["settings"]
    assert len({tuple(facts.values()) for facts in told.values()}) == len(BASELINES)


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_takes_a_traced_rate_and_lowers_the_loss(name):
    # Two-dimensional parameters, so that Muon and Adafactor do what sets them apart.
    target = jnp.array([[1.0, -2.0, 0.5], [3.0, 0.2, -1.0]])

    def loss(params):
        return jnp.mean(jnp.square(params["w"] - target)) + jnp.mean(jnp.square(params["b"] - 1.0))

    steps = 100 if name.startswith("prodigy") else 20  # it has to find its scale first

    @jax.jit
    def train(rate):
        tx = BASELINES[name](rate, steps)
        params = {"w": jnp.ones((2, 3)), "b": jnp.zeros(3)}

        def step(_, run):
            updates, state = tx.update(jax.grad(loss)(run[0]), run[1], run[0])
            return optax.apply_updates(run[0], updates), state

        trained, _ = jax.lax.fori_loop(0, steps, step, (params, tx.init(params)))
        return loss(trained) / loss(params)

    assert min(float(train(jnp.float32(rate))) for rate in (1e-3, 1e-1, 1.0)) < 0.95
