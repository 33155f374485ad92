"""The update rule under a linear decay to zero, by which a rule is trained for a schedule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.optimizers import DecayedRule, UpdateRule
from celo.optimizers._decayed_rule import horizon_scale, linear_decay

PARAMS = {"w": jnp.ones((4, 3)), "b": jnp.asarray([0.5, -0.25], jnp.bfloat16)}
GRADS = {"w": jnp.linspace(-1, 1, 12).reshape(4, 3), "b": jnp.asarray([0.1, 0.2], jnp.bfloat16)}


def test_it_is_the_rule_times_what_is_left_and_a_power_of_the_horizon(theta):
    params, grads = {"w": PARAMS["w"]}, {"w": GRADS["w"]}
    plain, decayed = UpdateRule(), DecayedRule()
    state, other = (rule.init(theta, params, jnp.int32(4)) for rule in (plain, decayed))
    for left in (1.0, 0.75, 0.5, 0.25, 0.0, 0.0):
        updates, state = plain.update(theta, grads, state, params, value=jnp.float32(1))
        less, other = decayed.update(theta, grads, other, params, value=jnp.float32(1))
        np.testing.assert_allclose(less["w"], 250**0.4 * left * updates["w"], rtol=1e-5)


def test_what_is_left_falls_to_zero_and_stays_there():
    steps = jnp.asarray([0, 1, 5, 9, 10, 11, 1000], jnp.int32)
    left = jax.vmap(lambda step: linear_decay(step, jnp.int32(10)))(steps)
    np.testing.assert_allclose(left, [1.0, 0.9, 0.5, 0.1, 0.0, 0.0, 0.0], atol=1e-6)
    assert left.dtype == jnp.float32


def test_a_horizon_of_a_thousand_steps_leaves_the_rule_as_it_is():
    """A thousand times as long, and a step is a sixteenth: 1000^-0.4 = 0.063."""
    assert horizon_scale(jnp.int32(1000)) == 1.0
    np.testing.assert_allclose(horizon_scale(jnp.int32(1_000_000)), 0.0631, rtol=1e-3)
    np.testing.assert_allclose(horizon_scale(jnp.int32(1)), 1 / 0.0631, rtol=1e-3)


def test_statistics_are_those_of_the_rule_and_time_is_counted(theta):
    state = DecayedRule().init(theta, PARAMS, jnp.int32(7))
    plain = UpdateRule().init(theta, PARAMS, jnp.int32(7))
    for step in range(3):
        assert (int(state.step), int(state.num_steps)) == (step, 7)
        assert state.step.dtype == state.num_steps.dtype == jnp.int32
        updates, state = DecayedRule().update(theta, GRADS, state, PARAMS, value=jnp.float32(1))
        _, plain = UpdateRule().update(theta, GRADS, plain, PARAMS, value=jnp.float32(1))
        jax.tree.map(np.testing.assert_array_equal, state.rule, plain)
    assert jax.tree.map(lambda u: u.dtype, updates) == jax.tree.map(lambda p: p.dtype, PARAMS)


def test_theta_is_that_of_the_rule(key):
    fresh, plain = DecayedRule().init_theta(key), UpdateRule().init_theta(key)
    jax.tree.map(np.testing.assert_array_equal, fresh, plain)
    assert DecayedRule.theta_groups == UpdateRule.theta_groups
    assert DecayedRule.optional_theta == UpdateRule.optional_theta


def test_the_loss_is_not_read(theta):
    state = DecayedRule().init(theta, PARAMS, jnp.int32(7))
    some, others = (
        DecayedRule().update(theta, GRADS, state, PARAMS, value=jnp.float32(value))[0]
        for value in (1.0, np.nan)
    )
    jax.tree.map(np.testing.assert_array_equal, some, others)


def test_an_unknown_kernel_is_named():
    with pytest.raises(CeloError, match="unknown kernel 'natve'; known, nearest first: native"):
        DecayedRule("natve")


def test_it_steps_matrices_that_will_step_along_their_momentum(theta):
    """So that the network learns on them, too."""
    with_momentum = {"update_rule": {**theta["update_rule"], "log_matrix_step": jnp.ones(())}}
    params, grads = {"w": jnp.ones((5, 8))}, {"w": jnp.cos(jnp.arange(40.0)).reshape(5, 8)}
    steps = []
    for weights in ({"update_rule": theta["update_rule"]}, with_momentum):
        state = DecayedRule().init(weights, params, jnp.int32(100))
        steps.append(DecayedRule().update(weights, grads, state, params, value=jnp.ones(()))[0]["w"])
    np.testing.assert_array_equal(*steps)
    assert "update_rule/log_matrix_step" in DecayedRule.fixed_theta
