"""How long the orthogonalised steps of matrices are; that they are orthogonal is in test_orthogonalize."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import celo
from celo import CeloError

KEY = jax.random.key(3)


@pytest.mark.parametrize("kernel", ["xla", "auto"])
@pytest.mark.parametrize("power", [0.5, pytest.param(1.0, marks=pytest.mark.slow)])
def test_matrices_remember_how_large_they_began(kernel, power):
    """Three times as large as at its first step, a matrix takes steps of 3^(1 - power) times the length."""
    theta = {
        "update_rule": {**celo.weights.load("celo-1").theta["update_rule"], "log_matrix_gain": jnp.zeros(())}
    }
    remembering = {"update_rule": {**theta["update_rule"], "start_power": jnp.float32(power)}}
    layers = {"layers": 1, "kernel": 0, "bias": 0}
    params = {
        "layers": jax.random.normal(KEY, (2, 5, 8)) * jnp.array([1.0, 0.1])[:, None, None],
        "kernel": jax.random.normal(KEY, (5, 8)),
        "bias": jax.random.normal(KEY, (8,)),
    }
    grads = jax.tree.map(lambda p: jnp.cos(10 * p + jnp.linspace(0.0, 5.0, p.shape[-1])), params)
    larger = jax.tree.map(lambda p: 3.0 * p, params)

    def second_step(theta):
        tx = celo.scale_by_celo_rule(theta, kernel=kernel, per_layer=layers, min_rms=0.01)
        update = jax.jit(tx.update)
        first, state = update(grads, tx.init(params), params)
        return first, update(grads, state, larger)[0]

    (first, plain), (same, found) = second_step(theta), second_step(remembering)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), first, same)
    for name in ("layers", "kernel"):
        np.testing.assert_allclose(found[name], 3**-power * plain[name], rtol=1e-5)
    np.testing.assert_allclose(found["bias"], plain["bias"], rtol=1e-6)


def test_a_matrix_that_begins_at_zero_counts_as_one_of_usual_initial_weights():
    """Whatever the least size is: 1 / sqrt(8) stands for the size of a matrix [5, 8]."""
    rule = {**celo.weights.load("celo-1").theta["update_rule"], "log_matrix_gain": jnp.zeros(())}
    params, grads = jnp.zeros((5, 8)), jax.random.normal(KEY, (5, 8))

    def step(power, least, size):
        tx = celo.scale_by_celo_rule(
            {"update_rule": {**rule, "start_power": jnp.float32(power)}}, min_rms=least
        )
        update = jax.jit(tx.update)
        _, state = update(grads, tx.init(params), params)
        return update(grads, state, jnp.full((5, 8), size))[0]

    for least in (0.0, 0.01):
        np.testing.assert_allclose(step(1.0, least, 2.0), step(0.0, least, 2.0) * 8**-0.5 / 2.0, rtol=1e-5)


def test_only_weights_that_ask_for_it_pay_for_the_memory():
    assert celo.scale_by_celo_rule("celo-1").init({"w": jnp.ones((3, 2))}).first_size is None


def test_a_state_made_with_other_weights_is_refused():
    plain = celo.weights.load("celo-1").theta["update_rule"]
    forgetful, remembering = (
        celo.scale_by_celo_rule({"update_rule": {**plain, "log_matrix_gain": jnp.zeros(()), **extra}})
        for extra in ({}, {"start_power": jnp.ones(())})
    )
    params = {"w": jnp.ones((5, 8))}
    for made, used in ((forgetful, remembering), (remembering, forgetful)):
        with pytest.raises(CeloError, match="made with other weights: first_size"):
            used.update(params, made.init(params), params)
