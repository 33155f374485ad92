"""The contract between estimators and problems: either side can be another than those of the library."""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from marks import slow_but

from celo.meta import ESTIMATORS, GradientEstimator, Recipe
from celo.meta._estimators.base import Estimate, Trajectory
from celo.meta._outer_step import PhaseProgram
from celo.meta._phases import phases, task_families
from celo.optimizers import Celo

SLOPE = np.array([0.5, -2.0, 1.0], np.float32)


class Life(NamedTuple):
    """How old a problem is, when it ends, and what its losses are shifted by."""

    age: jax.Array
    horizon: jax.Array
    shift: jax.Array


@pytest.mark.slow
@dataclasses.dataclass(frozen=True)
class Plane:
    """A problem that trains nothing: its cost is a linear function of θ, and noise that both sides share."""

    horizon: int = 20

    def init(self, theta, key, index):
        born = self.start(theta, key, index, key)
        return born._replace(age=5 * jax.random.randint(key, (), 0, self.horizon // 5, jnp.int32))

    def start(self, theta, key, index, key_horizon):
        return Life(
            jnp.zeros((), jnp.int32), jnp.asarray(self.horizon, jnp.int32), jax.random.normal(key, ())
        )

    def run(self, theta, state, key, length):
        ages = state.age + 1 + jnp.arange(length, dtype=jnp.int32)
        costs = jnp.dot(theta["plane"]["w"], SLOPE) + state.shift + jax.random.normal(key, (length,))
        ended = ages % state.horizon == 0
        return state._replace(age=ages[-1] % state.horizon), Trajectory(
            costs, costs, jnp.zeros((length,), bool), ended
        )


@pytest.mark.parametrize("name", slow_but(["nres", "full_es", "truncated_es"], ESTIMATORS))
def test_an_estimator_knows_no_more_of_a_problem_than_the_contract(name):
    """On a plane each finds its slope, within four standard errors."""
    theta = {"plane": {"w": jnp.asarray([1.0, 2.0, 3.0])}}
    estimator = ESTIMATORS[name](Plane(), 5, 0.1)
    state = estimator.init(theta, jax.random.key(0), jnp.arange(4000, dtype=jnp.int32))

    @jax.jit
    def estimates(state, keys):
        def one(state, key):
            estimate, state = estimator.estimate(theta, state, key)
            return state, estimate.gradient["plane"]["w"]

        return jax.lax.scan(one, state, keys)[1]

    # The first life may have begun before it was watched.
    found = np.asarray(estimates(state, jax.random.split(jax.random.key(1), 44)))[4:]
    lives = found.reshape(10, 4, 3).mean(axis=1)
    error = lives.std(axis=0, ddof=1) / np.sqrt(10)
    assert (error < 0.1).all(), "the error bars say nothing"
    assert (np.abs(lives.mean(axis=0) - SLOPE) < 5 * error).all()


class Particles(NamedTuple):
    number: jax.Array
    problem: object


@dataclasses.dataclass(frozen=True)
class Differences(GradientEstimator):
    """An estimator of one's own: central differences along one axis of θ, another for each particle."""

    problem: object
    truncation_length: int
    std: float

    def init(self, theta, key, index):
        keys = jax.vmap(lambda number: jax.random.fold_in(key, number))(index)
        return Particles(index, jax.vmap(self.problem.init, in_axes=(None, 0, 0))(theta, keys, index))

    def estimate(self, theta, state, key):
        flat, unravel = ravel_pytree(theta)

        def one(number, problem):
            mine = jax.random.fold_in(key, number)
            axis = jax.random.randint(mine, (), 0, flat.size, jnp.int32)
            step = self.std * jax.nn.one_hot(axis, flat.size)
            (after, plus), (_, minus) = (
                self.problem.run(unravel(flat + side * step), problem, mine, self.truncation_length)
                for side in (1.0, -1.0)
            )
            slope = jnp.mean(plus.costs - minus.costs) / (2 * self.std)
            return after, jnp.stack([plus.costs, minus.costs]), flat.size * slope * step / self.std

        after, costs, gradients = jax.vmap(one)(*state)
        estimate = Estimate(
            meta_loss=jnp.mean(costs),
            gradient=unravel(jnp.mean(gradients, axis=0)),
            particle_losses=jnp.mean(costs, axis=(1, 2)),
            nonfinite=jnp.zeros(()),
            inner_steps=jnp.full((), costs.size, jnp.float32),
        )
        return estimate, Particles(state.number, after)


def test_an_estimator_of_ones_own_is_registered_and_trains(monkeypatch):
    monkeypatch.setitem(ESTIMATORS, "differences", Differences)
    recipe = Recipe(
        tasks=("quadratic",),
        estimator="differences",
        rule_steps=10,
        scheduler_steps=0,
        pairs_per_task=4,
        truncation_length=5,
        horizon_min=10,
        horizon_max=20,
    )
    phase = phases(recipe)[0]
    program = PhaseProgram(recipe, phase, task_families(recipe, phase))
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    before = jax.device_get(state.theta)
    state, progress = program.advance(state, frozen, 3)
    assert progress.inner_steps == 2 * 4 * 5
    assert np.isfinite(progress.meta_loss)
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), before, jax.device_get(state.theta))
    assert any(jax.tree.leaves(moved))


@pytest.mark.parametrize("missing", ["init", "estimate"])
def test_an_estimator_that_lacks_a_method_cannot_be_made(missing):
    methods = {name: getattr(Differences, name) for name in ("init", "estimate") if name != missing}
    half = type("Half", (GradientEstimator,), methods)
    with pytest.raises(TypeError, match=f"abstract method '?{missing}"):
        half()
