"""Evolution strategies within truncations: biased, and how far they see."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import TruncatedES


@pytest.mark.slow
def test_it_is_biased(problem, exact, mean_and_error, distance):
    assert distance(mean_and_error(TruncatedES(problem, 5), 120, skip=4), exact).max() > 10


@pytest.mark.slow
def test_it_is_unbiased_where_a_life_is_one_truncation(
    make_problem, back_propagate, mean_and_error, distance
):
    problem = make_problem(5, 5)
    assert (distance(mean_and_error(TruncatedES(problem, 5), 60), back_propagate(problem)) < 4).all()


@pytest.mark.slow
def test_a_problem_goes_on_from_where_theta_plus_epsilon_has_brought_it(problem):
    """The next truncation begins with the state that the plus side ended with."""
    theta = problem.optimizer.init_theta(None)
    estimator = TruncatedES(problem, 5, std=0.5)
    state = estimator.init(theta, jax.random.key(0), jnp.arange(3, dtype=jnp.int32))
    key = jax.random.key(1)
    _, after = jax.jit(estimator.estimate)(theta, state, key)
    run = jax.jit(problem.run, static_argnums=3)
    for number in range(3):
        key_noise, key_run = jax.random.split(jax.random.fold_in(key, number))
        noise = jax.random.split(key_noise, 2)  # of log_rate and slope
        plus = {
            "sgd": {
                name: theta["sgd"][name] + 0.5 * jax.random.normal(noise[i], ())
                for i, name in enumerate(("log_rate", "slope"))
            }
        }
        before = jax.tree.map(lambda x, n=number: x[n], state.problem)
        expected, _ = run(plus, before, key_run, 5)
        np.testing.assert_allclose(after.problem.params["x"][number], expected.params["x"], rtol=1e-4)
    np.testing.assert_array_equal(after.number, [0, 1, 2])


def test_an_estimate_of_a_life_in_truncations_is_of_the_truncation(problem):
    """All its numbers are of five steps of both sides of each particle."""
    theta = problem.optimizer.init_theta(None)
    estimator = TruncatedES(problem, 5)
    state = estimator.init(theta, jax.random.key(0), jnp.arange(3, dtype=jnp.int32))
    estimate, _ = jax.jit(estimator.estimate)(theta, state, jax.random.key(1))
    assert estimate.inner_steps == 2 * 3 * 5
    assert estimate.particle_losses.shape == (3,)
    np.testing.assert_allclose(estimate.meta_loss, estimate.particle_losses.mean(), rtol=1e-5)


@pytest.mark.parametrize("setting", ["std", "truncation_length"])
def test_settings_must_be_positive(problem, setting):
    with pytest.raises(CeloError, match=f"TruncatedES needs a positive {setting}, got 0"):
        TruncatedES(problem, **{setting: 0})
