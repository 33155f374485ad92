"""Horizons changed in the state, plateaus and their end."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo._errors import CeloError
from celo.optimizers import _schedule as scheduler
from celo.optimizers import celo, celo_rule, cool_down, scale_by_celo_schedule, with_horizon
from celo.transforms import accumulate

PARAMS = {"w": jnp.asarray([1.0, -2.0, 0.5])}
ONES = jax.tree.map(jnp.ones_like, PARAMS)


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def types(tree):
    return [(leaf.shape, leaf.dtype, leaf.weak_type) for leaf in jax.tree.leaves(tree)]


def advanced(tx, state, losses):
    """The state after a step for each loss, and the step sizes."""
    step = jax.jit(lambda state, loss: tx.update(ONES, state, value=loss))
    sizes = []
    for loss in losses:
        updates, state = step(state, jnp.float32(loss))
        sizes.append(float(updates["w"][0]))
    return state, np.array(sizes)


def test_before_the_first_step_it_is_another_horizon(theta):
    for kernel_free in (celo, scale_by_celo_schedule):
        state = kernel_free(20, weights=theta).init(PARAMS)
        edited = with_horizon(state, 2000)
        equal(edited, kernel_free(2000, weights=theta).init(PARAMS))
        assert types(edited) == types(state)
        assert jax.tree.structure(edited) == jax.tree.structure(state)


def test_time_is_counted_from_the_beginning(theta):
    tx = scale_by_celo_schedule(20, theta)
    state, _ = advanced(tx, tx.init(PARAMS), [2.0] * 10)
    longer = with_horizon(state, 40)
    assert int(longer.step) == 10
    np.testing.assert_allclose(
        scheduler.time_features(longer.step, longer.num_steps),
        scheduler.time_features(jnp.int32(5), jnp.int32(20)),
    )
    equal(with_horizon(state, jnp.int32(40)), longer)
    traced = jax.jit(with_horizon)(state, jnp.int32(40))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), traced, longer)
    equal((longer.hidden, longer.cell, longer.losses.step), (state.hidden, state.cell, state.losses.step))


def corrected(state):
    rates = 1 / scheduler.half_lives(state.num_steps)
    return state.losses.means / -jnp.expm1(-rates * state.losses.step.astype(jnp.float32))


def test_the_averages_are_read_at_the_new_time_scales(theta):
    """Half way between two of the old scales it is half way between their averages; beyond, the last one."""
    tx = scale_by_celo_schedule(1000, theta)
    state, _ = advanced(tx, tx.init(PARAMS), np.linspace(3.0, 1.0, 50))
    old, new = corrected(state), corrected(with_horizon(state, 100))
    np.testing.assert_allclose(new[::2], old[:5], rtol=1e-5)  # log-spaced: every second scale is an old one
    np.testing.assert_allclose(new[1], (old[0] + old[1]) / 2, rtol=1e-5)
    longer = corrected(with_horizon(state, 10_000_000))
    np.testing.assert_allclose(longer[-3:], old[-1], rtol=1e-5)
    np.testing.assert_allclose(corrected(with_horizon(state, 1000)), old, rtol=1e-5)


@pytest.mark.parametrize("first", [1, 5, 10, 500])
@pytest.mark.parametrize("second", [1, 10, 100_000])
def test_no_change_of_horizon_makes_a_number_infinite(theta, first, second):
    tx = scale_by_celo_schedule(first, theta)
    state = with_horizon(tx.init(PARAMS), second)
    state, _ = advanced(tx, with_horizon(state, first), [2.0, 1.0, 1.5])
    state, sizes = advanced(tx, with_horizon(state, second), [1.2, 1.0])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert np.all(np.isfinite(sizes))


def test_it_is_found_wherever_it_is(theta):
    tx = accumulate(celo(20, weights=theta, nonfinite="hold", plateau=0.5, state_dtype="bfloat16"), 2)
    state = with_horizon({"opt": (tx.init(PARAMS), 3)}, 40)
    assert int(state["opt"][0].inner_state.inner_state[1].schedule.num_steps) == 40
    injected = optax.inject_hyperparams(celo)(num_steps=20, weights=theta, plateau=0.5)
    state = with_horizon(injected.init(PARAMS), 40)
    assert int(state.inner_state[2].schedule.num_steps) == 40
    both = optax.partition({"a": celo(20, weights=theta), "b": optax.sgd(0.1)}, {"w": "a"})
    assert int(with_horizon(both.init(PARAMS), 40).inner_states["a"].inner_state[1].num_steps) == 40


def test_errors(theta):
    state = celo(20, weights=theta).init(PARAMS)
    for bad in (0, 2.5, None):
        with pytest.raises(CeloError, match="num_steps must be a positive whole number"):
            with_horizon(state, bad)
        with pytest.raises(CeloError, match="num_steps must be a positive whole number"):
            cool_down(state, bad)
    with pytest.raises(CeloError, match="no learned schedule in the state, got a tuple"):
        with_horizon(celo_rule(1.0, weights=theta).init(PARAMS), 20)
    with pytest.raises(CeloError, match=r"no PlateauState in the state.*plateau=0\.5"):
        cool_down(state, 20)
    for bad in (0, 1, -0.5, "half", float("nan")):
        with pytest.raises(CeloError, match="plateau must be a share of the horizon, between 0 and 1"):
            celo(20, weights=theta, plateau=bad)


def test_the_clock_stands_still_on_the_plateau_and_runs_to_its_end(theta):
    plain, tx = scale_by_celo_schedule(20, theta), scale_by_celo_schedule(20, theta, plateau=0.5)
    losses = np.linspace(2.0, 1.0, 10)
    state, sizes = advanced(tx, tx.init(PARAMS), losses)
    expected, expected_sizes = advanced(plain, plain.init(PARAMS), losses)
    np.testing.assert_array_equal(sizes, expected_sizes)  # up to the plateau nothing is different
    equal(state.schedule, expected)

    state, _ = advanced(tx, state, [1.0] * 30)
    assert int(state.schedule.step) == 10
    assert int(state.schedule.losses.step) == 40  # it goes on listening

    for edit in (cool_down, jax.jit(cool_down)):
        cooling = edit(state, jnp.int32(8))
        assert types(cooling) == types(state)
        assert int(cooling.schedule.num_steps) == 16  # 8 steps for the second half
        assert int(cooling.schedule.step) == 8
        done, _ = advanced(tx, cooling, [1.0] * 8)
        assert int(done.schedule.step) == int(done.schedule.num_steps)


def test_another_horizon_is_another_size_of_step_but_cooling_down_is_not(theta):
    knowing = {**theta, "scheduler": {**theta["scheduler"], "horizon_w": jnp.float32(-0.5)}}
    sizes = {}
    for name, weights in (("plain", theta), ("knowing", knowing)):
        tx = scale_by_celo_schedule(1_000, weights, plateau=0.01)
        state, before = advanced(tx, tx.init(PARAMS), [1.0] * 15)
        _, cooling = advanced(tx, cool_down(state, 20), [1.0] * 20)
        _, longer = advanced(tx, with_horizon(state, 4_000), [1.0])
        sizes[name] = before, cooling, longer
    for ratio, (plain, knows) in zip((1, 1, 0.5), zip(*sizes.values(), strict=True), strict=True):
        np.testing.assert_allclose(knows, ratio * plain, rtol=1e-5)


def test_cooling_down_before_the_plateau_or_again(theta):
    tx = scale_by_celo_schedule(100, theta, plateau=0.5)
    state, _ = advanced(tx, tx.init(PARAMS), [1.0] * 20)
    early = cool_down(state, 40)
    assert (int(early.schedule.step), int(early.schedule.num_steps)) == (10, 50)
    again = cool_down(early, 80)
    assert (int(again.schedule.step), int(again.schedule.num_steps)) == (20, 100)
    shortest = scale_by_celo_schedule(1, theta, plateau=0.5)
    state, _ = advanced(shortest, shortest.init(PARAMS), [1.0, 1.0])
    assert int(cool_down(state, 3).schedule.num_steps) == 3
