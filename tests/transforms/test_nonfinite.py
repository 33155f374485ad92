"""Policies for bad steps, on both kernels: what a step leaves behind, counters, vmap and donated state."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo import _compile
from celo._errors import CeloError
from celo.optimizers import celo, celo_rule
from celo.transforms import guard_nonfinite

# What a policy does is not the kernel's doing.
KERNELS = [pytest.param("xla", marks=pytest.mark.slow), "native"] if _compile.find_compiler() else ["xla"]
FAST = KERNELS[-1]
PARAMS = {"w": jnp.asarray([[1.0, -2.0, 0.5], [0.3, 0.7, -1.0]]), "b": jnp.asarray([0.1, 0.2, -0.4])}
STEPS, BAD = 6, 3
GRADS = jax.tree.map(lambda p: jnp.stack([p * (1 + 0.1 * t) - 0.2 for t in range(STEPS)]), PARAMS)
LOSSES = np.linspace(2.0, 1.0, STEPS).astype(np.float32)


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def trainer(tx):
    """A function: gradients [steps, …] and losses -> (updates, states) after each step; jitted."""

    @jax.jit
    def run(grads, losses):
        def step(state, now):
            updates, state = tx.update(now[0], state, PARAMS, value=now[1])
            return state, (updates, state)

        return jax.lax.scan(step, tx.init(PARAMS), (grads, losses))[1]

    return run


def spoil(what, number=np.nan):
    """Gradients and losses, bad in one step: in a single element, in the loss, or in both."""
    grads, losses = dict(GRADS), LOSSES.copy()
    if what != "loss":
        grads["b"] = grads["b"].at[BAD, 1].set(number)
    if what != "gradient":
        losses[BAD] = number
    return grads, losses


def without_bad_step(grads, losses):
    keep = np.arange(STEPS) != BAD
    return jax.tree.map(lambda x: x[keep], (grads, losses))


def at(tree, index):
    return jax.tree.map(lambda x: x[index], tree)


GOOD = np.arange(STEPS) != BAD


@pytest.mark.parametrize("kernel", KERNELS)
def test_hold_is_as_if_the_step_had_not_been(theta, kernel):
    run = trainer(celo(20, weights=theta, kernel=kernel, nonfinite="hold"))
    expected, expected_states = run(*without_bad_step(GRADS, LOSSES))
    for what in ("gradient", "loss", "both"):
        updates, states = run(*spoil(what, np.inf))
        equal(at(updates, BAD), jax.tree.map(jnp.zeros_like, PARAMS))
        equal(at(updates, GOOD), expected)
        equal(at(states.inner_state, -1), at(expected_states.inner_state, -1))


@pytest.mark.parametrize("kernel", KERNELS)
def test_skip_keeps_the_statistics_and_lets_time_go_on(theta, kernel):
    run = trainer(celo(20, weights=theta, kernel=kernel, nonfinite="skip"))
    _, whole = run(GRADS, LOSSES)
    _, shorter = run(*without_bad_step(GRADS, LOSSES))
    updates, states = run(*spoil("gradient"))
    equal(at(updates, BAD), jax.tree.map(jnp.zeros_like, PARAMS))
    equal(at(states.inner_state[0], -1), at(shorter.inner_state[0], -1))  # the rule
    equal(at(states.inner_state[1], -1), at(whole.inner_state[1], -1))  # the schedule heard the loss
    heard, _ = run(*spoil("both"))
    assert np.any(heard["w"][BAD + 1] != updates["w"][BAD + 1])  # a bad loss is a spike to the schedule
    for leaf in jax.tree.leaves((updates, at(states, -1), heard)):
        assert np.all(np.isfinite(leaf))


def test_learning_rates_count_under_skip_and_wait_under_hold(theta):
    """So that a schedule of the user's ends with the loop, or with the steps."""
    rate = optax.linear_schedule(1.0, 0.0, STEPS)
    for policy, steps in (("skip", STEPS), ("hold", STEPS - 1)):
        tx = celo_rule(rate, weights=theta, kernel=FAST, nonfinite=policy)
        _, states = trainer(tx)(*spoil("gradient"))
        assert int(at(states, -1).inner_state[1].count) == steps


def test_shrink_halves_the_steps_after_a_bad_one(theta):
    skip = trainer(celo(20, weights=theta, kernel=FAST, nonfinite="skip"))
    shrink = trainer(celo(20, weights=theta, kernel=FAST, nonfinite="shrink"))
    plain, _ = skip(*spoil("both"))
    updates, states = shrink(*spoil("both"))
    equal(at(updates, slice(BAD + 1)), at(plain, slice(BAD + 1)))
    for after in range(1, STEPS - BAD):
        factor = 0.5 * 2 ** ((after - 1) / 100)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, factor * b, rtol=1e-5),  # noqa: B023
            at(updates, BAD + after),
            at(plain, BAD + after),
        )
    assert float(states.scale[-1]) == pytest.approx(0.5 * 2 ** ((STEPS - BAD - 1) / 100))


def test_shrink_has_a_floor_and_a_ceiling(theta):
    tx = celo(20, weights=theta, kernel=FAST, nonfinite="shrink")
    run = trainer(tx)
    steps = 130
    grads = jax.tree.map(lambda g: jnp.broadcast_to(g[:1], (steps, *g.shape[1:])), GRADS)
    losses = np.ones(steps, np.float32)
    losses[:15] = np.nan
    _, states = run(grads, losses)
    assert float(states.scale[14]) == 2.0**-10
    losses = np.ones(steps, np.float32)
    losses[5] = np.nan
    _, states = run(grads, losses)
    assert float(states.scale[-1]) == 1.0


def test_repair_is_what_happens_without_a_policy(theta):
    bad = spoil("both")
    updates, states = trainer(celo(20, weights=theta, kernel=FAST, nonfinite="repair"))(*bad)
    expected, plain = trainer(celo(20, weights=theta, kernel=FAST))(*bad)
    equal(updates, expected)
    equal(states.inner_state, plain)
    assert [int(x[-1]) for x in (states.bad_gradients, states.bad_losses, states.in_a_row)] == [1, 1, 0]


@pytest.mark.parametrize("policy", ["hold", "skip", "shrink"])
def test_counters(theta, policy):
    grads = {**GRADS, "w": GRADS["w"].at[1:3].set(jnp.nan)}
    losses = LOSSES.copy()
    losses[2:4] = np.inf
    _, states = trainer(celo(20, weights=theta, kernel=FAST, nonfinite=policy))(grads, losses)
    np.testing.assert_array_equal(states.bad_gradients, [0, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(states.bad_losses, [0, 0, 1, 2, 2, 2])
    np.testing.assert_array_equal(states.in_a_row, [0, 1, 2, 3, 0, 0])
    assert {leaf.dtype.name for leaf in jax.tree.leaves(states)} == {"float32", "int32"}


@pytest.mark.parametrize("policy", ["hold", "skip"])
@pytest.mark.parametrize("kernel", KERNELS)
def test_a_batch_with_a_bad_member(theta, policy, kernel):
    tx = celo(20, weights=theta, kernel=kernel, nonfinite=policy)
    state = tx.init(PARAMS)
    grads = jax.tree.map(lambda p: jnp.stack([p, jnp.full_like(p, jnp.nan)]), PARAMS)
    losses = jnp.asarray([1.0, 1.0])
    update = jax.jit(lambda g, v: tx.update(g, state, PARAMS, value=v))
    together = jax.jit(jax.vmap(lambda g, v: tx.update(g, state, PARAMS, value=v)))(grads, losses)
    for i in range(2):
        alone = update(at(grads, i), losses[i])
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-9), at(together, i), alone
        )


@pytest.mark.parametrize("kernel", KERNELS)
def test_a_donated_state_survives_a_held_step(theta, kernel):
    tx = celo(20, weights=theta, kernel=kernel, nonfinite="hold")
    update = jax.jit(lambda g, s, v: tx.update(g, s, PARAMS, value=v), donate_argnums=1)
    state = tx.init(PARAMS)
    _, state = update(PARAMS, state, jnp.float32(1.0))
    before = jax.tree.map(np.array, state.inner_state)
    old = state
    updates, state = update(PARAMS, state, jnp.float32(np.nan))
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(old))
    equal(updates, jax.tree.map(jnp.zeros_like, PARAMS))
    equal(state.inner_state, before)


def test_weight_decay_rests_too(theta):
    tx = celo(20, weights=theta, kernel=FAST, weight_decay=0.1, nonfinite="skip")
    updates, _ = trainer(tx)(*spoil("loss"))
    equal(at(updates, BAD), jax.tree.map(jnp.zeros_like, PARAMS))


def test_unknown_policies_are_named(theta):
    with pytest.raises(
        CeloError, match="unknown policy for non-finite numbers 'skipp'; known, nearest first: skip"
    ):
        celo(20, weights=theta, nonfinite="skipp")
    with pytest.raises(CeloError, match="unknown policy"):
        guard_nonfinite(celo(20, weights=theta), "ignore")
