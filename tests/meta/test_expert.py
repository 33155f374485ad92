"""Teacher forcing: the expert's steps, its share in them, and how far a step is from them."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.meta import Expert
from celo.meta._expert import DIRECTION, LENGTH

PARAMS = {"w": jnp.asarray([[1.0, -2.0], [0.5, 1.0]]), "b": jnp.zeros(2)}
GRADS = {"w": jnp.asarray([[0.1, 0.2], [-0.3, 0.4]]), "b": jnp.asarray([1.0, -1.0])}
LEARNED = jax.tree.map(lambda p: 0.01 + 0.01 * p, PARAMS)


def forced(share, learned=LEARNED, passed=0.0, **settings):
    expert = Expert(share, **settings)
    return expert.force(learned, GRADS, expert.init(PARAMS), PARAMS, jnp.float32(passed))


def adam():
    """Adam's first step, the sign of the gradient, times 0.01 of the tensor's size, at least 0.001."""
    size = {"w": np.sqrt(np.mean(np.square(PARAMS["w"]))), "b": 1e-3}
    return {name: -0.01 * size[name] * np.sign(GRADS[name]) for name in PARAMS}


def test_with_the_whole_share_the_step_is_adams_and_falls_along_a_cosine():
    for passed, scale in ((0.0, 1.0), (0.5, 0.5), (0.75, 0.5 * (1 + np.cos(0.75 * np.pi))), (1.0, 0.0)):
        updates, _, _ = forced(1.0, passed=passed)
        for name, step in adam().items():
            np.testing.assert_allclose(updates[name], scale * step, rtol=1e-4, atol=1e-9)


def test_its_state_is_adams():
    _, _, state = forced(0.3)
    _, expected = optax.scale_by_adam().update(GRADS, optax.scale_by_adam().init(PARAMS))
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("share", [0.25, 0.9])
def test_a_share_of_a_step_is_its_own_and_the_rest_learned(share):
    updates, _, _ = forced(jnp.float32(share))
    for name, step in adam().items():
        np.testing.assert_allclose(
            updates[name], (1 - share) * LEARNED[name] + share * step, rtol=1e-4, atol=1e-8
        )


def test_without_a_share_every_bit_is_the_learned_optimizers():
    updates, distance, _ = forced(jnp.zeros(()))
    jax.tree.map(np.testing.assert_array_equal, updates, LEARNED)
    assert Expert(jnp.zeros(())).cost(jnp.float32(1.7), distance) == np.float32(1.7)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda step: step, 0.0),
        (lambda step: -step, 2 * DIRECTION),
        (lambda step: np.e * step, LENGTH),
        (lambda step: step / np.e, LENGTH),
        (lambda step: 0 * step, DIRECTION + LENGTH * np.log(1000)),
        (lambda step: np.nan * step, 2 * DIRECTION + LENGTH * np.log(1000)),
        (lambda step: np.inf * step, 2 * DIRECTION + LENGTH * np.log(1000)),
    ],
    ids=["itself", "against", "longer", "shorter", "none", "nan", "infinite"],
)
def test_how_far_a_step_is_from_the_experts(change, expected):
    learned = {name: jnp.asarray(change(step), jnp.float32) for name, step in adam().items()}
    assert forced(1.0, learned)[1] == pytest.approx(expected, abs=1e-3)


def test_the_cost_of_a_step_is_shared_likewise():
    assert Expert(1.0).cost(jnp.float32(3.0), jnp.float32(0.5)) == 0.5
    assert Expert(0.25).cost(jnp.float32(3.0), jnp.float32(1.0)) == pytest.approx(2.5)


def test_gradients_that_are_not_finite_do_not_poison_it():
    expert = Expert(1.0)
    state = expert.init(PARAMS)
    for grads in (jax.tree.map(lambda g: g * jnp.nan, GRADS), jax.tree.map(lambda g: g * jnp.inf, GRADS)):
        updates, distance, state = expert.force(LEARNED, grads, state, PARAMS, jnp.float32(0.0))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((updates, distance, state)))


def test_updates_keep_the_parameters_dtype():
    half = jax.tree.map(lambda p: p.astype(jnp.bfloat16), PARAMS)
    expert = Expert(0.5)
    updates, distance, _ = expert.force(half, half, expert.init(half), half, jnp.float32(0.5))
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    assert distance.dtype == jnp.float32


def test_a_rate_must_be_positive():
    with pytest.raises(CeloError, match="positive learning_rate, got 0"):
        Expert(1.0, learning_rate=0.0)
