"""What all estimators in the registry must keep."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import ESTIMATORS, Recipe, make_recipe, read_metrics, start
from celo.meta._summary import METRICS

TINY = {
    "tasks": ("quadratic",),
    "rule_steps": 10,
    "scheduler_steps": 0,
    "pairs_per_task": 2,
    "truncation_length": 5,
    "horizon_min": 10,
    "horizon_max": 20,
}


# Each of the slow ones is the same code as another one, or as the runs of test_run.py.
SLOW = ("pes", "nres", "full_es_final")
SOME = [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW)) for name in ESTIMATORS]


@pytest.mark.parametrize("name", SOME)
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
def test_particles_do_not_depend_on_their_neighbours(make_problem, own_horizons, name):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", SOME)
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
