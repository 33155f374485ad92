"""The estimators beside PES against back-propagation, and what all in the registry must keep."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import ESTIMATORS, FullES, Recipe, TruncatedES, Unroll, make_recipe, read_metrics, start
from celo.meta._outer_step import PhaseProgram
from celo.meta._phases import phases, task_families
from celo.meta._summary import METRICS
from celo.optimizers import Celo

PARTICLES = 2048
TINY = {
    "tasks": ("quadratic",),
    "rule_steps": 10,
    "scheduler_steps": 0,
    "pairs_per_task": 2,
    "truncation_length": 5,
    "horizon_min": 10,
    "horizon_max": 20,
}


def mean_and_error(estimator, estimates, skip=0):
    """(mean, standard error) over independent estimates, the first `skip` left out."""
    theta = estimator.problem.optimizer.init_theta(None)

    @jax.jit
    def run(key):
        key_init, key_run = jax.random.split(key)
        state = estimator.init(theta, key_init, jnp.arange(PARTICLES, dtype=jnp.int32))

        def one(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            return state, estimate.gradient["sgd"]

        return jax.lax.scan(one, state, jax.random.split(key_run, skip + estimates))[1]

    gradients = run(jax.random.key(3))
    stacked = np.stack([gradients["log_rate"], gradients["slope"]])[:, skip:]
    return stacked.mean(axis=1), stacked.std(axis=1, ddof=1) / np.sqrt(estimates)


def distance(found, exact):
    """In standard errors of both, which must be small beside what is estimated."""
    error = np.hypot(found[1], exact[1])
    assert (np.abs(exact[0]) > 10 * error).all(), "the error bars say nothing"
    return np.abs(found[0] - exact[0]) / error


def test_full_es_is_unbiased(problem, exact):
    assert (distance(mean_and_error(FullES(problem, 5), 30), exact) < 4).all()


def test_full_es_of_the_final_loss_is_unbiased_for_it_alone(problem, exact, back_propagate):
    found = mean_and_error(FullES(problem, 5, final=True), 30)
    assert (distance(found, back_propagate(problem, last=5)) < 4).all()
    assert distance(found, exact).max() > 10


def test_full_es_counts_all_horizons_equally(make_problem, back_propagate):
    """Also where each particle has its own, and particles whose lives are over wait for the others."""
    problem = make_problem(5, 30)
    exact = back_propagate(problem)
    assert (distance(mean_and_error(FullES(problem, 5), 60), exact) < 4).all()
    assert (distance(mean_and_error(FullES(own_horizons(problem), 5), 30), exact) < 4).all()


def test_truncated_es_is_biased(problem, exact):
    assert distance(mean_and_error(TruncatedES(problem, 5), 120, skip=4), exact).max() > 10


def test_truncated_es_is_unbiased_where_a_life_is_one_truncation(make_problem, back_propagate):
    problem = make_problem(5, 5)
    assert (distance(mean_and_error(TruncatedES(problem, 5), 60), back_propagate(problem)) < 4).all()


def own_horizons(problem):
    """The same problems, with a horizon for each particle whatever the estimator asks for."""

    class OwnHorizons(Unroll):
        def start(self, theta, key, index, key_horizon):
            return super().start(theta, key, index, jax.random.fold_in(key_horizon, jax.random.bits(key)))

    return OwnHorizons(**{field.name: getattr(problem, field.name) for field in dataclasses.fields(problem)})


@pytest.mark.parametrize("name", ESTIMATORS)
def test_sides_share_everything_but_noise(problem, name):
    """With a vanishing perturbation no difference of losses is left, also after resets."""
    theta = problem.optimizer.init_theta(None)
    estimator = ESTIMATORS[name](problem, 5, 1e-18)
    state = jax.jit(estimator.init)(theta, jax.random.key(0), jnp.arange(3, dtype=jnp.int32))
    estimate_once = jax.jit(estimator.estimate)
    for i in range(8):
        estimate, state = estimate_once(theta, state, jax.random.key(i))
        assert all((np.asarray(leaf) == 0).all() for leaf in jax.tree.leaves(estimate.gradient))
        assert np.isfinite(estimate.meta_loss)
        # The cost: both sides of three particles, a truncation of five steps or a life of twenty.
        assert estimate.inner_steps == 2 * 3 * (20 if name.startswith("full_es") else 5)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_particles_do_not_depend_on_their_neighbours(make_problem, name):
    """A particle draws the same alone as with others, whose lives may be longer: the shards' contract."""
    problem = own_horizons(make_problem(5, 40))
    theta = problem.optimizer.init_theta(None)
    estimator = ESTIMATORS[name](problem, 5, 0.01)

    @jax.jit
    def estimates(index):
        def one(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            return state, estimate

        state = estimator.init(theta, jax.random.key(0), index)
        return jax.lax.scan(one, state, jax.random.split(jax.random.key(1), 6))[1]

    together = estimates(jnp.arange(8, dtype=jnp.int32))
    alone = [estimates(jnp.array([i], jnp.int32)) for i in range(8)]
    losses = np.concatenate([estimate.particle_losses for estimate in alone], axis=1)
    np.testing.assert_allclose(together.particle_losses, losses, rtol=1e-5)
    for leaf in ("log_rate", "slope"):
        mean = np.mean([estimate.gradient["sgd"][leaf] for estimate in alone], axis=0)
        np.testing.assert_allclose(together.gradient["sgd"][leaf], mean, rtol=1e-3, atol=1e-3)


def test_an_outer_step_of_full_es_costs_whole_lives():
    recipe = Recipe(**{**TINY, "horizon_min": 20}, estimator="full_es")
    program = PhaseProgram(recipe, phases(recipe)[0], task_families(recipe, phases(recipe)[0]))
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    _, progress = program.advance(state, frozen, 3)
    assert progress.inner_steps == 2 * recipe.pairs_per_task * 20


SLOW = ("pes", "nres", "full_es_final")  # each the same code as another one, or as the runs of test_run.py


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in ESTIMATORS]
)
def test_a_run_with_each(tmp_path, name):
    run = tmp_path / "run"
    start(run, Recipe(**TINY, estimator=name), kernel="xla")
    rows = read_metrics(run / METRICS)
    assert [row["phase"] for row in rows] == ["rule"]
    assert all(np.isfinite(row["meta_loss"]) and row["gradient_norm"] > 0 for row in rows)
    assert all(row["nonfinite_fraction"] == 0 and row["inner_steps_per_second"] > 0 for row in rows)


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize(("setting", "value"), [("std", 0.0), ("truncation_length", 0)])
def test_settings_are_refused(problem, name, setting, value):
    with pytest.raises(CeloError, match=f"{setting}, got {value}"):
        ESTIMATORS[name](problem, **{setting: value})


def test_unknown_estimators_list_the_nearest():
    with pytest.raises(CeloError, match="unknown estimator 'ful_es'; known, nearest first: full_es"):
        make_recipe("quick", estimator="ful_es")
