"""How long the steps of matrices are, and along what; that they are orthogonal is in test_orthogonalize."""

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


def along_momentum(share, **options):
    rule = {**celo.weights.load("celo-1").theta["update_rule"], "log_matrix_gain": jnp.zeros(())}
    return celo.scale_by_celo_rule({"update_rule": {**rule, "momentum_share": jnp.float32(share)}}, **options)


def polar(matrix):
    """By singular values, in float64."""
    u, _, v = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u @ v


def size(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


@pytest.mark.parametrize("scale", [1.0, 1e-25])
@pytest.mark.parametrize("kernel", ["xla", "auto"])
def test_a_matrix_steps_along_nesterovs_momentum_as_far_as_the_rule_would(kernel, scale):
    """Of gradients g and h, momentum 0.9 * 0.1 g + 0.1 h and Nesterov's 0.1 h + 0.9 of that. Vectors do not."""
    params = {"w": jax.random.normal(KEY, (9, 6)), "b": jnp.ones(6)}
    g, h = (
        {"w": scale * jax.random.normal(jax.random.key(i), (9, 6)), "b": jnp.full(6, 0.1)} for i in range(2)
    )
    found = {}
    for share in (0.0, 1.0):
        tx = along_momentum(share, kernel=kernel)
        update = jax.jit(tx.update)
        _, state = update(g, tx.init(params), params)
        found[share], _ = update(h, state, params)
    momentum = 0.09 * np.asarray(g["w"], np.float64) + 0.1 * np.asarray(h["w"], np.float64)
    expected = -polar((0.1 * np.asarray(h["w"], np.float64) + 0.9 * momentum) / scale)
    step = np.asarray(found[1.0]["w"])
    # The polynomials bring singular values to within 8 % of one.
    np.testing.assert_allclose(step / size(step), expected / size(expected), atol=0.2)
    assert np.sum(step * expected) > 0.99 * np.linalg.norm(step) * np.linalg.norm(expected)
    assert size(step) == pytest.approx(size(found[0.0]["w"]), rel=1e-4)
    np.testing.assert_array_equal(found[1.0]["b"], found[0.0]["b"])


def test_layers_of_a_stack_have_momenta_of_their_own():
    params = jax.random.normal(KEY, (3, 5, 8)) * jnp.array([1.0, 0.1, 5.0])[:, None, None]
    grads = jax.random.normal(jax.random.key(1), (3, 5, 8)) * jnp.array([1e-3, 1.0, 7.0])[:, None, None]
    whole, one = along_momentum(0.7, per_layer=1), along_momentum(0.7)
    together, _ = whole.update(grads, whole.init(params), params)
    for i in range(3):
        apart, _ = one.update(grads[i], one.init(params[i]), params[i])
        np.testing.assert_allclose(together[i], apart, rtol=2e-5, atol=1e-9)


@pytest.mark.parametrize("bad", [0.0, jnp.nan, jnp.inf])
def test_any_gradient_gives_a_finite_step_along_its_momentum(bad):
    params = {"w": jnp.ones((5, 8))}
    tx = along_momentum(1.0)
    updates, state = tx.update({"w": jnp.full((5, 8), bad)}, tx.init(params), params)
    assert np.isfinite(updates["w"]).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(state))
