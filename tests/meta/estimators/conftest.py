"""Estimates of many particles, and how far they are from what back-propagation says."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.meta import Unroll

PARTICLES = 2048


@pytest.fixture(scope="session")
def mean_and_error():
    """A function: (estimator, number of estimates, how many to leave out first) -> (mean, standard error)."""

    def estimate_often(estimator, estimates, skip=0):
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

    return estimate_often


@pytest.fixture(scope="session")
def distance():
    """A function: two (mean, error) -> how far apart they are, in errors, which must be small."""

    def in_errors(found, exact):
        error = np.hypot(found[1], exact[1])
        assert (np.abs(exact[0]) > 10 * error).all(), "the error bars say nothing"
        return np.abs(found[0] - exact[0]) / error

    return in_errors


class OwnHorizons(Unroll):
    def start(self, theta, key, index, key_horizon):
        return super().start(theta, key, index, jax.random.fold_in(key_horizon, jax.random.bits(key)))


@pytest.fixture(scope="session")
def own_horizons():
    """A function: problems -> the same, with a horizon for each particle whatever the estimator asks for."""

    def each_its_own(problem):
        fields = dataclasses.fields(problem)
        return OwnHorizons(**{field.name: getattr(problem, field.name) for field in fields})

    return each_its_own
