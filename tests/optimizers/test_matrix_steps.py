"""Matrices along their momentum: which way they step, and how far. Their factors are in test_orthogonal."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import celo
from celo import CeloError
from celo.optimizers._rule_steps import RuleState
from celo.optimizers._update_rule import SplitState

KEY = jax.random.key(3)
PLAIN = celo.weights.load("celo-1").theta["update_rule"]
KERNELS = pytest.mark.parametrize("kernel", ["xla", "auto"])


def rule(power=None, length=0.0, **options):
    """Celo's rule, of which a matrix's step is 0.01 e^length of its size."""
    settings = {"log_matrix_step": length, "start_power": power}
    found = {name: jnp.float32(value) for name, value in settings.items() if value is not None}
    return celo.scale_by_celo_rule({"update_rule": {**PLAIN, **found}}, **options)


def polar(matrix):
    """By singular values, in float64."""
    u, _, v = np.linalg.svd(np.asarray(matrix, np.float64), full_matrices=False)
    return u @ v


def size(x):
    return float(np.sqrt(np.mean(np.square(np.asarray(x, np.float64)))))


@pytest.mark.parametrize("scale", [1.0, 1e-25])
@KERNELS
def test_a_matrix_steps_along_nesterovs_momentum(kernel, scale):
    """Of gradients g and h, momentum 0.9 * 0.1 g + 0.1 h and Nesterov's 0.1 h + 0.9 of that."""
    params = jnp.asarray(np.random.default_rng(0).normal(size=(9, 6)), jnp.float32)
    g, h = (np.random.default_rng(i).normal(size=(9, 6)) for i in (1, 2))
    tx = rule(length=0.7, kernel=kernel)
    update = jax.jit(tx.update)
    _, state = update(jnp.float32(scale * g), tx.init(params), params)
    step, _ = update(jnp.float32(scale * h), state, params)
    expected = -polar(0.1 * h + 0.9 * (0.1 * h + 0.09 * g))
    found = np.asarray(step, np.float64)
    assert np.sum(found * expected) > 0.995 * np.linalg.norm(found) * np.linalg.norm(expected)
    values = np.linalg.svd(found, compute_uv=False) / (0.01 * np.exp(0.7) * size(params) * 3)  # sqrt(9)
    np.testing.assert_allclose(values, 1.0, atol=0.09)  # so well the polynomials do it


def test_the_rule_has_the_other_tensors():
    """Vectors, and matrices thinner than 4, step as they do where there are no matrices."""
    params = {"w": jnp.ones((5, 8)), "thin": jnp.ones((3, 8)), "b": jnp.ones(8), "none": jnp.ones((5, 0))}
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params)
    alone, every = rule(), celo.scale_by_celo_rule({"update_rule": PLAIN})
    found, state = alone.update(grads, alone.init(params), params)
    expected, _ = every.update(grads, every.init(params), params)
    for name in ("thin", "b", "none"):
        np.testing.assert_array_equal(found[name], expected[name])
    assert isinstance(state, SplitState)
    assert jax.tree.map(jnp.shape, state.matrices.momentum) == {
        name: (5, 8) if name == "w" else optax.MaskedNode() for name in params
    }
    assert {x.shape for x in jax.tree.leaves(state.rule.momenta)} == {(3, 8), (8,), (5, 0)}


def test_a_matrix_takes_the_memory_of_its_momentum():
    params = {"w": jnp.ones((64, 32))}
    kept = sum(x.size for x in jax.tree.leaves(rule(0.5).init(params)))
    assert kept == 64 * 32 + 1


@KERNELS
@pytest.mark.parametrize("power", [None, 0.5, 1.0])
def test_matrices_remember_how_large_they_began(kernel, power):
    """Three times as large as at its first step, a matrix takes steps of 3^(1 - power) times the length."""
    layers = {"layers": 1, "kernel": 0}
    params = {
        "layers": jax.random.normal(KEY, (2, 5, 8)) * jnp.array([1.0, 0.1])[:, None, None],
        "kernel": jax.random.normal(KEY, (5, 8)),
    }
    grads = jax.tree.map(lambda p: jnp.cos(10 * p + jnp.linspace(0.0, 5.0, p.shape[-1])), params)
    larger = jax.tree.map(lambda p: 3.0 * p, params)
    tx = rule(power, kernel=kernel, per_layer=layers, min_rms=0.01)
    update = jax.jit(tx.update)
    _, state = update(grads, tx.init(params), params)
    same, _ = update(grads, state, params)
    found, _ = update(grads, state, larger)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, 3 ** (1 - (power or 0)) * b, rtol=1e-5), found, same
    )


def test_a_matrix_that_begins_at_zero_counts_as_one_of_usual_initial_weights():
    """Whatever the least size is: 1 / sqrt(8) stands for the size of a matrix [5, 8]."""
    params, grads = jnp.zeros((5, 8)), jax.random.normal(KEY, (5, 8))

    def step(power, least, value):
        tx = rule(power, min_rms=least)
        update = jax.jit(tx.update)
        _, state = update(grads, tx.init(params), params)
        return update(grads, state, jnp.full((5, 8), value))[0]

    for least in (0.0, 0.01):
        np.testing.assert_allclose(step(1.0, least, 2.0), step(0.0, least, 2.0) * 8**-0.5 / 2.0, rtol=1e-5)


@KERNELS
def test_layers_of_a_stack_are_matrices_of_their_own(kernel):
    params = jax.random.normal(KEY, (3, 5, 8)) * jnp.array([1.0, 0.1, 5.0])[:, None, None]
    grads = jax.random.normal(jax.random.key(1), (3, 5, 8)) * jnp.array([1e-3, 1.0, 7.0])[:, None, None]
    whole, one = rule(0.5, per_layer=1, kernel=kernel), rule(0.5, kernel=kernel)
    together, _ = whole.update(grads, whole.init(params), params)
    for i in range(3):
        apart, _ = one.update(grads[i], one.init(params[i]), params[i])
        np.testing.assert_allclose(together[i], apart, rtol=0, atol=1e-4 * np.abs(apart).max())


@KERNELS
def test_matrices_of_one_shape_are_computed_apart(kernel):
    params = [p * jax.random.normal(jax.random.key(i), (5, 8)) for i, p in enumerate((1.0, 0.01, 3.0))]
    grads = [jax.random.normal(jax.random.key(9 - i), (5, 8)) for i in range(3)]
    tx = rule(0.5, kernel=kernel)
    together, _ = tx.update(grads, tx.init(params), params)
    for i in range(3):
        apart, _ = tx.update(grads[i], tx.init(params[i]), params[i])
        np.testing.assert_allclose(together[i], apart, rtol=0, atol=1e-4 * np.abs(apart).max())


@pytest.mark.parametrize("bad", [0.0, jnp.nan, jnp.inf])
def test_any_gradient_gives_a_finite_step(bad):
    params = {"w": jnp.ones((5, 8))}
    tx = rule()
    updates, state = tx.update({"w": jnp.full((5, 8), bad)}, tx.init(params), params)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((updates, state)))


def test_the_caller_says_which_matrices():
    params = {"embedding": jnp.ones((6, 5)), "blocks": {"kernel": jnp.ones((5, 8)), "bias": jnp.ones(8)}}
    grads = jax.tree.map(lambda p: jnp.sin(jnp.arange(1.0, p.size + 1)).reshape(p.shape), params)
    some = rule(orthogonalize={"embedding": False, "blocks": True})
    found, state = some.update(grads, some.init(params), params)
    none, every = rule(orthogonalize=False), rule()
    np.testing.assert_array_equal(
        found["embedding"], none.update(grads, none.init(params), params)[0]["embedding"]
    )
    np.testing.assert_array_equal(
        found["blocks"]["kernel"], every.update(grads, every.init(params), params)[0]["blocks"]["kernel"]
    )
    assert state.matrices.momentum["embedding"] == optax.MaskedNode()


def test_a_state_made_with_other_weights_or_for_other_matrices_is_refused():
    params = {"w": jnp.ones((5, 8))}
    plain = celo.scale_by_celo_rule({"update_rule": PLAIN})
    assert isinstance(plain.init(params), RuleState)
    with pytest.raises(CeloError, match="SplitState"):
        rule().update(params, plain.init(params), params)
    with pytest.raises(CeloError, match="RuleState"):
        plain.update(params, rule().init(params), params)
    with pytest.raises(CeloError, match="momentum"):
        rule().update(params, rule().init({"w": jnp.ones((5, 9))}), params)
    stacked = {"w": jnp.ones((3, 5, 8))}
    with pytest.raises(CeloError, match="first_size"):
        rule(per_layer=1).update(stacked, rule().init(stacked), stacked)
