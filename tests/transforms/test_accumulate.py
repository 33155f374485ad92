"""Accumulation: mean gradients and losses, one step for several calls, and what MultiSteps does instead."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo._kernels import native
from celo.optimizers import celo, celo_rule
from celo.transforms import accumulate

KERNEL = native.resolve("auto")
PARAMS = {"w": jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]]), "b": jnp.asarray([0.1, 0.2, -0.4])}
EVERY, CALLS = 3, 7
GRADS = jax.tree.map(lambda p: jnp.stack([p * (1 + 0.3 * t) - 0.2 for t in range(CALLS)]), PARAMS)
LOSSES = jnp.asarray([2.0, 1.0, 3.0, 1.5, 1.0, 0.5, 9.0])


def run(tx, grads, losses, params=PARAMS):
    def step(state, now):
        updates, state = tx.update(now[0], state, params, value=now[1])
        return state, updates

    state, updates = jax.jit(lambda *now: jax.lax.scan(step, tx.init(params), now))(grads, losses)
    return updates, state


def test_a_step_sees_the_mean_gradient_and_the_mean_loss(theta):
    inner = celo(20, weights=theta, kernel=KERNEL)
    updates, state = run(accumulate(inner, EVERY), GRADS, LOSSES)
    mean = jax.tree.map(lambda x: x[:6].reshape(2, EVERY, *x.shape[1:]).mean(1), (GRADS, LOSSES))
    expected, expected_state = run(inner, *mean)
    for i in (0, 1, 3, 4, 6):
        assert not any(np.any(u[i]) for u in updates.values())
    for name, u in updates.items():
        np.testing.assert_allclose(u[jnp.asarray([2, 5])], expected[name], rtol=1e-4, atol=1e-8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.inner_state, expected_state
    )
    assert int(state.mini_step) == 1
    assert float(state.loss) == 9.0


def test_the_optimizer_runs_in_its_turn_only():
    calls = []

    def update(updates, state, params=None):
        jax.debug.callback(lambda: calls.append(None))
        return updates, state

    counting = optax.GradientTransformation(lambda params: optax.EmptyState(), update)
    jax.block_until_ready(run(accumulate(counting, EVERY), GRADS, LOSSES))
    jax.effects_barrier()
    assert len(calls) == 2


def test_sums_are_float32_and_updates_are_like_the_parameters():
    """A thousand small gradients do not vanish in a bfloat16 sum."""
    params = {"w": jnp.zeros(2, jnp.bfloat16)}
    grads = {"w": jnp.full((512, 2), 1.0, jnp.bfloat16)}
    updates, state = run(accumulate(optax.scale(1.0), 512), grads, jnp.ones(512), params)
    assert updates["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(updates["w"][-1], [1, 1])
    assert state.grads["w"].dtype == jnp.float32


def test_inside_a_chain_the_loss_arrives(theta):
    """Where optax.MultiSteps drops it."""
    inner = celo(20, weights=theta, kernel=KERNEL)
    chained = optax.chain(accumulate(inner, EVERY), optax.scale(2.0))
    expected, _ = run(accumulate(inner, EVERY), GRADS, LOSSES)
    updates, _ = run(chained, GRADS, LOSSES)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, 2 * b, rtol=1e-6), updates, expected)
    dropping = optax.chain(optax.MultiSteps(inner, EVERY).gradient_transformation())
    with pytest.raises(CeloError, match=r"use celo\.accumulate"), jax.numpy_dtype_promotion("standard"):
        dropping.update(PARAMS, dropping.init(PARAMS), PARAMS, value=1.0)


def test_without_a_loss(theta):
    tx = accumulate(celo_rule(1.0, weights=theta, kernel=KERNEL), 1)
    updates, _ = tx.update(PARAMS, tx.init(PARAMS), PARAMS)
    assert np.any(updates["w"] != 0)
    tx = accumulate(celo(20, weights=theta, kernel=KERNEL), 2)
    with pytest.raises(CeloError, match=r"value=None.*celo\.celo_rule\(learning_rate\)"):
        tx.update(PARAMS, tx.init(PARAMS), PARAMS)


def test_one_bad_micro_batch_is_one_bad_step(theta):
    losses = LOSSES.at[1].set(jnp.nan)
    updates, state = run(
        accumulate(celo(20, weights=theta, kernel=KERNEL, nonfinite="hold"), EVERY), GRADS, losses
    )
    assert not np.any(updates["w"][2])
    assert np.any(updates["w"][5])
    assert int(state.inner_state.bad_losses) == 1


@pytest.mark.parametrize("every", [0, -1, 2.5, True, "2"], ids=repr)
def test_bad_every(every):
    with pytest.raises(CeloError, match="every must be a positive whole number"):
        accumulate(optax.sgd(0.1), every)
