"""Celo-Adam against optax's Adam, and its schedule against Celo's."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.optimizers import CeloAdam, as_optax, celo_adam, scale_by_celo_schedule

SHAPES = {"w": (3, 2), "b": (2,), "scale": (), "none": (0, 4)}
STEPS = 6


@pytest.fixture(scope="module")
def weights(noisy_theta):
    return noisy_theta(CeloAdam())


def normal(seed, size=1.0):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    return {name: size * jax.random.normal(k, SHAPES[name]) for k, name in zip(keys, SHAPES, strict=True)}


PARAMS = normal(0)


def trained(tx, grads, losses):
    """The updates of each step, parameters held."""
    state, found = tx.init(PARAMS), []
    for grad, loss in zip(grads, losses, strict=True):
        updates, state = tx.update(grad, state, PARAMS, value=jnp.float32(loss))
        found.append(updates)
    return found, state


@pytest.mark.parametrize("size", [1e-4, 1.0, 100.0])
def test_a_step_is_a_thousandth_of_adams_times_the_schedules(weights, size):
    """optax's Adam with its second epsilon inside the root; both are small beside the gradients."""
    grads = [normal(10 + t, size) for t in range(STEPS)]
    losses = np.linspace(2.0, 1.0, STEPS)
    found, _ = trained(celo_adam(50, weights=weights), grads, losses)
    with jax.numpy_dtype_promotion("standard"):
        adam = optax.adam(1e-3, eps=1e-8, eps_root=1e-10)
        directions, _ = trained(optax.with_extra_args_support(adam), grads, losses)
    ones = [jax.tree.map(jnp.ones_like, grad) for grad in grads]
    sizes, _ = trained(scale_by_celo_schedule(50, weights), ones, losses)
    for ours, theirs, eta in zip(found, directions, sizes, strict=True):
        for name in SHAPES:
            np.testing.assert_allclose(ours[name], theirs[name] * eta[name], rtol=1e-4)
    assert len({float(eta["scale"]) for eta in sizes}) == STEPS


def test_the_transformation_is_the_optimizer(weights):
    grads, losses = [normal(20 + t) for t in range(3)], (2.0, 1.0, 1.5)
    tx, _ = trained(celo_adam(50, weights=weights), grads, losses)
    whole, state = trained(as_optax(CeloAdam(), weights, 50), grads, losses)
    for a, b in zip(tx, whole, strict=True):
        jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), a, b)
    assert int(state.moments.step) == int(state.schedule.step) == 3


def test_moments_are_float32_averages_that_are_not_corrected(weights):
    """The first after one gradient: a tenth of it, and a thousandth of its square."""
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    optimizer = CeloAdam()
    state = optimizer.init(weights, half, jnp.int32(50))
    updates, state = optimizer.update(weights, half, state, half, value=jnp.float32(1))
    assert {u.dtype for u in jax.tree.leaves(updates)} == {jnp.dtype("bfloat16")}
    assert {m.dtype for m in jax.tree.leaves(state.moments)} == {jnp.dtype("float32"), jnp.dtype("int32")}
    gradient = np.asarray(half["w"].astype(jnp.float32))
    np.testing.assert_allclose(state.moments.first["w"], 0.1 * gradient, rtol=1e-5)
    np.testing.assert_allclose(state.moments.second["w"], 0.001 * gradient**2, rtol=1e-4)


def test_bad_gradients_are_clipped_and_do_not_stay(weights):
    bad = normal(1)
    bad["w"] = bad["w"].at[0].set(jnp.asarray([np.nan, np.inf]))
    replaced = {**bad, "w": bad["w"].at[0].set(jnp.asarray([0.0, 1000.0]))}
    losses = (1.0, 1.0)
    found, state = trained(celo_adam(50, weights=weights), [bad, normal(2)], losses)
    expected, _ = trained(celo_adam(50, weights=weights), [replaced, normal(2)], losses)
    for a, b in zip(found, expected, strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, state[0])))


def test_learning_rate_and_decay_multiply_the_learned_step_size(weights):
    """What decay adds is -0.001 * learned step size * learning_rate * weight_decay * parameter."""
    [plain], _ = trained(celo_adam(50, weights=weights), [normal(1)], [1.0])
    settings = {"learning_rate": 0.5, "weight_decay": 10.0}
    [changed], _ = trained(celo_adam(50, weights=weights, **settings), [normal(1)], [1.0])
    schedule, one = scale_by_celo_schedule(50, weights), jnp.ones(())
    eta, _ = schedule.update(one, schedule.init(one), one, value=1.0)
    for name, param in PARAMS.items():
        expected = 0.5 * plain[name] - 0.5 * 1e-3 * 10.0 * eta * param
        np.testing.assert_allclose(changed[name], expected, rtol=1e-4, atol=1e-8)


def test_theta_is_a_scheduler_alone(key, theta):
    fresh = CeloAdam().init_theta(key)
    assert fresh.keys() == {"scheduler"}
    assert sum(leaf.size for leaf in jax.tree.leaves(fresh)) == 35_649
    with pytest.raises(CeloError, match="missing: scheduler/"):
        celo_adam(50, weights={"update_rule": theta["update_rule"]})


def test_no_weights_are_taken_where_none_are_named():
    with pytest.raises(TypeError, match="weights"):
        celo_adam(50)


def test_an_unknown_kernel_is_named_though_there_is_nothing_to_compute_with_it(weights):
    with pytest.raises(CeloError, match="unknown kernel 'natve'; known, nearest first: native"):
        celo_adam(50, weights=weights, kernel="natve")


def test_a_state_or_gradient_of_other_shapes_is_refused(theta):
    tx, params, other = celo_adam(20, weights=theta), {"w": jnp.ones((4, 8))}, {"w": jnp.ones((1, 8))}
    with pytest.raises(CeloError, match=r"params\['w'\] has shape \(4, 8\), and its state \(1, 8\)"):
        tx.update(params, tx.init(other), params, value=1.0)
    with pytest.raises(CeloError, match=r"and its gradient \(1, 8\)"):
        tx.update(other, tx.init(params), params, value=1.0)
