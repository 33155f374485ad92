"""Evolution strategies on whole lives, against back-propagation through them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import FullES, Recipe
from celo.meta._outer_step import PhaseProgram
from celo.meta._phases import phases, task_families
from celo.optimizers import Celo

RECIPE = {
    "tasks": ("quadratic",),
    "rule_steps": 10,
    "scheduler_steps": 0,
    "pairs_per_task": 2,
    "truncation_length": 5,
    "horizon_min": 20,
    "horizon_max": 20,
}


@pytest.mark.slow
def test_it_is_unbiased(problem, exact, mean_and_error, distance):
    assert (distance(mean_and_error(FullES(problem, 5), 30), exact) < 4).all()


@pytest.mark.slow
def test_that_of_the_final_loss_is_unbiased_for_it_alone(
    problem, exact, back_propagate, mean_and_error, distance
):
    found = mean_and_error(FullES(problem, 5, final=True), 30)
    assert (distance(found, back_propagate(problem, last=5)) < 4).all()
    assert distance(found, exact).max() > 10


@pytest.mark.slow
def test_all_horizons_count_equally(make_problem, back_propagate, own_horizons, mean_and_error, distance):
    """Also where each particle has its own, and particles whose lives are over wait for the others."""
    problem = make_problem(5, 30)
    exact = back_propagate(problem)
    assert (distance(mean_and_error(FullES(problem, 5), 60), exact) < 4).all()
    assert (distance(mean_and_error(FullES(own_horizons(problem), 5), 30), exact) < 4).all()


@pytest.mark.slow
def test_an_outer_step_costs_whole_lives():
    recipe = Recipe(**RECIPE, estimator="full_es")
    program = PhaseProgram(recipe, phases(recipe)[0], task_families(recipe, phases(recipe)[0]))
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    _, progress = program.advance(state, frozen, 3)
    assert progress.inner_steps == 2 * recipe.pairs_per_task * 20


@pytest.mark.slow
def test_one_perturbation_acts_on_a_whole_life(problem):
    """Two particles of one number have one ε, one start and one horizon: they say the same."""
    theta = problem.optimizer.init_theta(None)
    estimator = FullES(problem, 5)
    twins = estimator.init(theta, jax.random.key(0), jnp.zeros(2, jnp.int32))
    estimate, after = jax.jit(estimator.estimate)(theta, twins, jax.random.key(1))
    assert estimate.particle_losses[0] == estimate.particle_losses[1]
    np.testing.assert_array_equal(after.number, twins.number)  # nothing outlives an estimate
    alone = estimator.init(theta, jax.random.key(5), jnp.zeros(1, jnp.int32))
    single, _ = jax.jit(estimator.estimate)(theta, alone, jax.random.key(1))
    for a, b in zip(jax.tree.leaves(single.gradient), jax.tree.leaves(estimate.gradient), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4)


@pytest.mark.slow
def test_all_particles_of_an_estimate_share_a_horizon_that_is_drawn_anew_for_each(make_problem):
    problem = make_problem(10, 40)
    theta = problem.optimizer.init_theta(None)

    @jax.jit
    def losses(key):
        state = FullES(problem, 5).init(theta, key, jnp.arange(4, dtype=jnp.int32))
        return FullES(problem, 5).estimate(theta, state, key)[0]

    found = [losses(jax.random.key(seed)) for seed in range(8)]
    # Two sides of four particles, all of one horizon, which is a whole number of truncations.
    horizons = {float(one.inner_steps) / (2 * 4) for one in found}
    assert len(horizons) > 2
    assert horizons <= set(range(10, 41, 5))


@pytest.mark.parametrize("setting", ["std", "truncation_length"])
def test_settings_must_be_positive(problem, setting):
    with pytest.raises(CeloError, match=f"FullES needs a positive {setting}, got 0"):
        FullES(problem, **{setting: 0})
