"""Antithetic pairs: their arithmetic, by hand."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta._estimators import antithetic
from celo.meta._estimators.base import Trajectory

THETA = {"group": {"a": jnp.asarray([1.0, -2.0]), "b": jnp.asarray(3.0)}}


@dataclasses.dataclass(frozen=True)
class Settings:
    std: float = 0.01
    count: int = 3


class Recorder:
    """A problem whose costs are θ's number `b`, and whose state is what it has been given."""

    def init(self, theta, key, index):
        return {"drawn": jax.random.normal(key, ()), "index": index}

    def run(self, theta, state, key, length):
        noise = jax.random.normal(key, (length,))
        costs = jnp.full((length,), theta["group"]["b"])
        never = jnp.zeros((length,), bool)
        return {**state, "index": state["index"] + length}, Trajectory(noise, costs, never, never)


@pytest.mark.parametrize(
    ("settings", "said"), [({"std": 0.0}, "std, got 0.0"), ({"count": -1}, "count, got -1")]
)
def test_what_must_be_positive_is_named_with_its_value(settings, said):
    with pytest.raises(CeloError, match=f"Settings needs a positive {said}"):
        antithetic.require_positive(Settings(**settings), "std", "count")
    antithetic.require_positive(Settings(), "std", "count")


def test_what_is_not_a_number_is_not_positive():
    with pytest.raises(CeloError, match="positive std, got nan"):
        antithetic.require_positive(Settings(std=float("nan")), "std")


def test_the_sides_are_as_far_from_theta_the_one_way_as_the_other():
    epsilon = {"group": {"a": jnp.asarray([0.5, 0.25]), "b": jnp.asarray(-1.0)}}
    sides = antithetic.both_thetas(THETA, epsilon)
    np.testing.assert_array_equal(sides["group"]["a"], [[1.5, -1.75], [0.5, -2.25]])
    np.testing.assert_array_equal(sides["group"]["b"], [2.0, 4.0])
    stacked = antithetic.both({"x": jnp.zeros(3)}, {"x": jnp.ones(3)})["x"]
    np.testing.assert_array_equal(stacked, [[0, 0, 0], [1, 1, 1]])


def test_both_sides_have_the_same_randomness_and_each_its_own_theta():
    epsilon = jax.tree.map(lambda x: jnp.full(x.shape, 0.5), THETA)
    start = {"drawn": jnp.zeros(2), "index": jnp.asarray([7, 7])}
    after, seen = antithetic.run_sides(Recorder(), THETA, epsilon, start, jax.random.key(0), 4)
    np.testing.assert_array_equal(seen.costs, [[3.5] * 4, [2.5] * 4])
    np.testing.assert_array_equal(seen.losses[0], seen.losses[1])
    np.testing.assert_array_equal(after["index"], [11, 11])


def test_a_particle_is_of_its_number_and_not_of_its_place():
    key = jax.random.key(0)
    made = antithetic.init_problems(Recorder(), THETA, key, jnp.asarray([4, 0, 4], jnp.int32))
    other = antithetic.init_problems(Recorder(), THETA, key, jnp.asarray([0], jnp.int32))
    np.testing.assert_array_equal(made["index"], [4, 0, 4])
    assert made["drawn"][0] == made["drawn"][2] != made["drawn"][1] == other["drawn"][0]


def test_steps_after_an_end_are_of_the_next_problem():
    """The step with which a problem ends is still its own."""
    ended = jnp.asarray([[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [1, 0, 0, 1, 0], [0, 0, 0, 0, 0]], bool)
    began = [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 1, 1, 1], [0, 0, 0, 0, 0]]
    np.testing.assert_array_equal(antithetic.began_within(ended), np.array(began, bool))


def test_the_gradient_of_a_linear_loss_is_its_slope():
    """With one perturbation along each axis, whose mean square is σ², exactly."""
    std, slope = 0.1, np.array([1.0, -2.0, 0.5])
    noise = std * np.sqrt(3) * np.eye(3, dtype=np.float32)
    epsilon = {"group": {"a": jnp.asarray(noise[:, :2]), "b": jnp.asarray(noise[:, 2])}}
    difference = jnp.asarray(2 * noise @ slope, jnp.float32)  # L(θ + ε) - L(θ - ε)
    found = antithetic.es_gradient(epsilon, difference, std)
    np.testing.assert_allclose(found["group"]["a"], slope[:2], rtol=1e-5)
    np.testing.assert_allclose(found["group"]["b"], slope[2], rtol=1e-5)


def test_numbers_of_particles_stand_before_all_other_axes():
    per_particle = jnp.asarray([1.0, 2.0])
    for shape in ((2,), (2, 3), (2, 1, 5)):
        expanded = antithetic.expand(per_particle, jnp.zeros(shape))
        assert expanded.shape == (2,) + (1,) * (len(shape) - 1)
        np.testing.assert_array_equal(expanded.ravel(), per_particle)


def test_an_estimate_of_a_truncation_is_made_of_means_over_it():
    rng = np.random.default_rng(0)
    losses, costs = rng.normal(size=(2, 3, 2, 4)).astype(np.float32)  # particles, sides, steps
    bad = rng.random((3, 2, 4)) < 0.3
    seen = Trajectory(*map(jnp.asarray, (losses, costs, bad, np.zeros((3, 2, 4), bool))))
    estimate = antithetic.truncation_estimate(seen, THETA)
    np.testing.assert_allclose(estimate.meta_loss, costs.mean(), rtol=1e-5)
    np.testing.assert_allclose(estimate.particle_losses, [one.mean() for one in losses], rtol=1e-4)
    np.testing.assert_allclose(estimate.nonfinite, bad.sum() / 24, rtol=1e-6)
    assert estimate.inner_steps == 24
    assert estimate.gradient is THETA
