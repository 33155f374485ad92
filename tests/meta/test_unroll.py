"""Horizons, resets and what a diverged problem may do."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from celo._errors import CeloError
from celo.meta._estimators.pes import PES
from celo.meta._expert import Expert
from celo.meta._unroll import Unroll
from celo.optimizers import DecayedRule, UpdateRule
from celo.tasks import Quadratics
from celo.tasks._models.quadratic import Quadratic

K = 5


def unroll(**settings):
    settings = {"truncation_length": K, "horizon_min": 10, "horizon_max": 100, **settings}
    return Unroll(settings.pop("family", Quadratics(dim=3)), UpdateRule(), **settings)


@pytest.fixture(scope="module")
def theta():
    return UpdateRule().init_theta(jax.random.key(1))


@pytest.fixture(scope="module")
def fresh(theta):
    """Four thousand problems as they begin after a reset: what `run` makes of problems that are over."""
    problem = unroll()

    @jax.jit
    @jax.vmap
    def reset(key):
        state = problem.init(theta, key, jnp.zeros((), jnp.int32))._replace(step=jnp.int32(1000))
        return problem.run(theta, state, key, K)

    return reset(jax.random.split(jax.random.key(0), 4000))


def test_horizons_are_log_uniform_whole_truncations(fresh):
    state, _ = fresh
    horizons = np.asarray(state.num_steps)
    assert set(horizons % K) == {0}
    assert 10 <= horizons.min() <= horizons.max() <= 100
    assert np.log(horizons).mean() == pytest.approx((np.log(10) + np.log(100)) / 2, abs=0.03)


def test_a_problem_that_is_over_starts_anew_and_no_step_is_wasted(fresh):
    state, trajectory = fresh
    assert (state.step == K).all()
    assert not trajectory.ended[:, :-1].any()
    np.testing.assert_array_equal(trajectory.ended[:, -1], state.num_steps == K)


def test_problems_are_met_at_all_ages(theta):
    """Ages are spread from the first to the last truncation, and young problems are not cut short."""
    problem = unroll()
    keys = jax.random.split(jax.random.key(2), 2000)
    state = jax.jit(jax.vmap(problem.init, in_axes=(None, 0, None)))(theta, keys, jnp.int32(0))
    fraction = np.asarray(state.step / state.num_steps)
    assert set(np.asarray(state.step) % K) == {0}
    assert (fraction < 1).all()
    # Uniform over the truncations of each horizon: mean (n - 1) / 2n with n truncations.
    n = np.asarray(state.num_steps) / K
    assert fraction.mean() == pytest.approx(((n - 1) / (2 * n)).mean(), abs=0.02)
    # A long problem is met the more often: uniform horizons, not log-uniform ones.
    assert np.asarray(state.num_steps).mean() == pytest.approx(55, abs=1.5)
    assert (np.asarray(state.params["x"]) != 0).all()


@pytest.mark.parametrize("power", slow_but([1.5], [0.0, 1.5, 2.0, 3.0]))
def test_how_rare_long_horizons_are(theta, power):
    """Fresh problems have density h^-power, those met in mid-life h^(1 - power)."""
    problem = unroll(horizon_power=power, horizon_min=100, horizon_max=1000)
    keys = jax.random.split(jax.random.key(3), 4000)
    born = jax.jit(jax.vmap(lambda key: problem.start(theta, key, jnp.int32(0), key).num_steps))(keys)
    met = jax.jit(jax.vmap(lambda key: problem.init(theta, key, jnp.int32(0)).num_steps))(keys[:1000])
    for horizons, density in ((born, power), (met, power - 1)):
        h = np.linspace(100, 1000, 10_001)
        weight = h**-density
        expected = (np.log(h) * weight).sum() / weight.sum()
        assert np.log(horizons).mean() == pytest.approx(expected, abs=0.05)
        assert (np.asarray(horizons) >= 100).all()
        assert (np.asarray(horizons) <= 1000).all()


def test_losses_go_on_across_truncations(theta):
    """Two runs of K steps are one run of 2K steps as far as the problem is concerned: losses keep falling."""
    problem = unroll(horizon_min=100)
    run = jax.jit(problem.run, static_argnums=3)
    state = problem.init(theta, jax.random.key(0), jnp.int32(0))._replace(step=jnp.int32(100))
    first_state, _ = run(theta, state, jax.random.key(1), K)
    _, second = run(theta, first_state, jax.random.key(2), K)
    assert first_state.step == K
    loss, _ = first_state.task.loss(first_state.params, (), None, ())
    assert second.losses[0] == pytest.approx(float(loss), rel=1e-5)


def test_an_end_becomes_a_middle(theta):
    """The optimizer's state is told, if it keeps time, and is otherwise as it was."""
    problem = dataclasses.replace(unroll(horizon_min=20, horizon_max=20), optimizer=DecayedRule())
    state = problem.init(theta, jax.random.key(0), jnp.int32(0))
    state = state._replace(step=state.num_steps)
    longer = problem.prolong(state, jax.random.key(1))
    assert (int(longer.step), int(longer.num_steps)) == (20, 40)
    assert int(longer.opt_state.num_steps) == 40
    before = state._replace(num_steps=longer.num_steps, opt_state=longer.opt_state)
    jax.tree.map(np.testing.assert_array_equal, longer, before)
    jax.tree.map(np.testing.assert_array_equal, longer.opt_state.rule, state.opt_state.rule)
    timeless = unroll().init(theta, jax.random.key(0), jnp.int32(0))
    again = unroll().prolong(timeless, jax.random.key(1))
    jax.tree.map(np.testing.assert_array_equal, again.opt_state, timeless.opt_state)


@pytest.mark.slow
def test_with_an_expert_that_takes_every_step_theta_says_nothing_but_how_it_differs(theta):
    """Losses are the expert's whatever θ is, costs are distances of θ's steps from the expert's."""
    problem = unroll(expert=Expert(1.0), horizon_min=K, horizon_max=K)
    run = jax.jit(lambda theta: problem.run(theta, problem.init(theta, key, jnp.int32(0)), key, K)[1])
    key, other = jax.random.key(0), UpdateRule().init_theta(jax.random.key(2))
    seen, of_other = run(theta), run(other)
    np.testing.assert_array_equal(seen.losses, of_other.losses)
    assert (seen.losses[1:] < seen.losses[:-1]).all()
    assert (seen.costs != of_other.costs).all()
    assert (seen.costs != seen.losses).all()
    free, gone = (
        jax.jit(lambda p=p: p.run(theta, p.init(theta, key, jnp.int32(0)), key, K))()
        for p in (unroll(), unroll(expert=Expert(jnp.zeros(()))))
    )
    jax.tree.map(np.testing.assert_array_equal, free[1], gone[1])
    jax.tree.map(np.testing.assert_array_equal, free[0].params, gone[0].params)


class Poisoned(Quadratics):
    """A family in which every second task has no finite loss."""

    def __init__(self):
        super().__init__(dim=3, loss_cap=50.0, members=("sound", "poisoned"))

    def sample(self, key, member):
        task = super().sample(key, member)
        return Quadratic(jnp.where(member == 1, jnp.nan, task.curvature), task.centre)


def test_nonfinite_losses_count_as_the_cap_and_never_reach_the_gradient(theta):
    pes = PES(unroll(family=Poisoned()), truncation_length=K, std=0.01)
    state = jax.jit(pes.init)(theta, jax.random.key(0), jnp.arange(6, dtype=jnp.int32))
    estimate, state = jax.jit(pes.estimate)(theta, state, jax.random.key(1))
    assert estimate.nonfinite == pytest.approx(0.5)
    np.testing.assert_array_equal(estimate.particle_losses[1::2], 50.0)
    assert (np.asarray(estimate.particle_losses[0::2]) < 50.0).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((estimate.gradient, state.earlier)))


def test_large_losses_are_clipped_but_not_called_nonfinite(theta):
    family = dataclasses.replace(Quadratics(dim=3, condition=4.0), loss_cap=1e-3)
    problem = unroll(family=family)
    state = problem.init(theta, jax.random.key(0), jnp.int32(0))
    _, trajectory = jax.jit(problem.run, static_argnums=3)(theta, state, jax.random.key(1), K)
    np.testing.assert_allclose(trajectory.losses, 1e-3)
    assert not trajectory.nonfinite.any()


@pytest.mark.parametrize(("low", "high"), [(0, 10), (20, 10), (1, K - 1)])
def test_impossible_horizons_are_refused(low, high):
    with pytest.raises(CeloError, match=f"{low}, {high}"):
        unroll(horizon_min=low, horizon_max=high)
