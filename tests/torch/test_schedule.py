"""The learned schedule, its horizon and its plateau: the same as in JAX, step for step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from celo.optimizers import _schedule as in_jax
from celo.optimizers import cool_down, scale_by_celo_schedule, with_horizon
from celo.torch import _schedule

SPIKES = {0: np.nan, 5: np.inf, 9: -np.inf, 14: 1e6, 20: np.nan}  # the first one is not finite, either


@pytest.fixture(scope="module")
def weights(theta):
    return {"scheduler": {**theta["scheduler"], "horizon_w": jnp.asarray(-0.4, jnp.float32)}}


@pytest.fixture(scope="module")
def as_tensors(weights):
    return {name: torch.from_numpy(np.array(array)) for name, array in weights["scheduler"].items()}


def losses(steps=40, spikes=()):
    values = (2.0 * 0.96 ** np.arange(steps) + 0.1 * np.random.default_rng(0).normal(size=steps)).astype("f4")
    for step, value in dict(spikes).items():
        values[step] = value
    return values


def assert_alike(ours, theirs):
    """A state of ours and one of JAX, which may have a plateau around it."""
    share = getattr(theirs, "share", jnp.inf)
    theirs = getattr(theirs, "schedule", theirs)
    assert int(ours["clock"]) == int(theirs.step)
    assert int(ours["num_steps"]) == int(theirs.num_steps)
    assert int(ours["sized_for"]) == int(theirs.sized_for)
    assert int(ours["losses_seen"]) == int(theirs.losses.step)
    assert float(ours["plateau"]) == float(share)
    for name, array in (
        ("loss_means", theirs.losses.means),
        ("loss_minima", theirs.losses.minima),
        ("hidden", theirs.hidden),
        ("cell", theirs.cell),
    ):
        np.testing.assert_allclose(ours[name], array, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("num_steps", [4, 10, 40, 1000])
@pytest.mark.parametrize("spikes", [{}, SPIKES], ids=["calm", "spikes"])
def test_it_says_what_jax_says(weights, as_tensors, num_steps, spikes):
    advance = jax.jit(in_jax.advance)
    theirs = in_jax.init(weights["scheduler"], jnp.asarray(num_steps, jnp.int32))
    ours = _schedule.init(as_tensors, num_steps, None)
    for loss in losses(spikes=spikes):
        expected, theirs = advance(weights["scheduler"], theirs, jnp.asarray(loss))
        eta, ours = _schedule.advance(as_tensors, ours, torch.tensor(loss))
        np.testing.assert_allclose(eta, expected, rtol=1e-4)
    assert_alike(ours, theirs)


def run(tx, state, values):
    """(step sizes, state) of a schedule in JAX."""
    said = []
    update = jax.jit(tx.update)
    for loss in values:
        updates, state = update(jnp.ones(()), state, value=jnp.asarray(loss))
        said.append(float(updates))
    return said, state


def run_ours(theta, state, values):
    said = []
    for loss in values:
        eta, state = _schedule.advance(theta, state, torch.tensor(loss))
        said.append(float(eta))
    return said, state


@pytest.mark.parametrize(("horizon", "before"), [(25, 0), (5, 15), (300, 15)])
def test_another_horizon_in_mid_run_is_as_in_jax(weights, as_tensors, horizon, before):
    tx = scale_by_celo_schedule(60, weights)
    _, theirs = run(tx, tx.init({}), losses()[:before])
    _, ours = run_ours(as_tensors, _schedule.init(as_tensors, 60, None), losses()[:before])
    theirs, ours = with_horizon(theirs, horizon), _schedule.with_horizon(ours, horizon)
    assert_alike(ours, theirs)
    expected, theirs = run(tx, theirs, losses()[before:])
    said, ours = run_ours(as_tensors, ours, losses()[before:])
    np.testing.assert_allclose(said, expected, rtol=2e-4)
    assert_alike(ours, theirs)


@pytest.mark.parametrize("before", [0, 30])
def test_a_plateau_and_its_end_are_as_in_jax(weights, as_tensors, before):
    tx = scale_by_celo_schedule(24, weights, plateau=0.5)
    said_there, theirs = run(tx, tx.init({}), losses()[:before])
    said, ours = run_ours(as_tensors, _schedule.init(as_tensors, 24, 0.5), losses()[:before])
    np.testing.assert_allclose(said, said_there, rtol=2e-4)
    assert_alike(ours, theirs)
    assert int(ours["clock"]) == min(before, 12)
    theirs, ours = cool_down(theirs, 10), _schedule.cooling_down(ours, 10)
    assert_alike(ours, theirs)
    assert int(ours["num_steps"] - ours["clock"]) == 10
    expected, theirs = run(tx, theirs, losses()[before : before + 10])
    said, ours = run_ours(as_tensors, ours, losses()[before : before + 10])
    np.testing.assert_allclose(said, expected, rtol=2e-4)
    assert int(ours["clock"]) == int(ours["num_steps"])


def test_a_state_is_a_step_of_its_own(as_tensors):
    state = _schedule.init(as_tensors, 20, None)
    before = {name: value.clone() for name, value in state.items()}
    _schedule.advance(as_tensors, state, torch.tensor(1.0))
    _schedule.with_horizon(state, 40)
    for name, value in state.items():
        assert torch.equal(value, before[name])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_default_dtype_of_pytorch_changes_nothing(as_tensors, dtype):
    def trained():
        state = _schedule.init(as_tensors, 30, 0.5)
        said, state = run_ours(as_tensors, state, losses()[:20])
        return said, _schedule.with_horizon(_schedule.cooling_down(state, 10), 40)

    said, state = trained()
    torch.set_default_dtype(dtype)
    try:
        said_then, state_then = trained()
    finally:
        torch.set_default_dtype(torch.float32)
    assert said_then == said
    for name, value in state.items():
        assert state_then[name].dtype == value.dtype
        assert torch.equal(state_then[name], value), name
