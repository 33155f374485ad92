"""PES: the published numbers, and unbiasedness against back-propagation."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.errors import CeloError
from celo.meta.pes import PES, WHOLE_LIFE, pes_gradient
from celo.meta.unroll import Unroll
from celo.optimizers.base import LearnedOptimizer
from celo.tasks import Quadratics

GOLDEN = Path(__file__).parents[1] / "golden" / "pes_grad.npz"


@pytest.mark.parametrize("truncation", range(3))
def test_formula_matches_the_published_estimator(truncation):
    numbers = np.load(GOLDEN)

    def of(kind):
        return {name: numbers[f"t{truncation}/{kind}/{name}"] for name in "abc"}

    def flat(name):  # [5, 10, particles] -> [particles, steps]
        return numbers[f"t{truncation}/{name}"].reshape(50, -1).T

    mask = flat("mask")
    gradient, earlier = pes_gradient(
        (flat("p_loss") - flat("n_loss")) * mask,
        fresh=np.cumsum(flat("is_done"), axis=1) > 0,  # there the step that ends counts as fresh already
        count=mask.sum(axis=1).astype(np.float32),
        epsilon=of("vec_pos"),
        earlier=of("accum_in"),
        std=float(numbers["std"]),
    )
    for name in "abc":
        want = of("grad")[name]
        np.testing.assert_allclose(gradient[name], want, rtol=0, atol=1e-5 * np.abs(want).max())
        np.testing.assert_array_equal(earlier[name] + of("vec_pos")[name], of("accum_out")[name])


@dataclasses.dataclass(frozen=True)
class Sgd(LearnedOptimizer):
    """Gradient descent with a learned rate and a learned decay of it: two weights with exact gradients."""

    theta_groups = ("sgd",)

    def init_theta(self, key):
        del key
        return {"sgd": {"log_rate": jnp.float32(-2.5), "slope": jnp.float32(0.1)}}

    def init(self, theta, params, num_steps):
        del theta, params
        return jnp.zeros((), jnp.int32), num_steps

    def update(self, theta, grads, state, params, *, value):
        del params, value
        step, num_steps = state
        fraction = step.astype(jnp.float32) / num_steps.astype(jnp.float32)
        rate = jnp.exp(theta["sgd"]["log_rate"] + theta["sgd"]["slope"] * 3.0 * fraction)
        return jax.tree.map(lambda g: -rate * g, grads), (step + 1, num_steps)


LENGTH, TRUNCATIONS, PARTICLES, BLOCKS = 5, 4, 2048, 30
HORIZON = LENGTH * TRUNCATIONS


@pytest.fixture(scope="module")
def problem():
    family = Quadratics(dim=3, condition=4.0)
    return Unroll(family, Sgd(), truncation_length=LENGTH, horizon_min=HORIZON, horizon_max=HORIZON)


@pytest.fixture(scope="module")
def exact(problem):
    """(mean, standard error) of the back-propagated gradient of the mean loss over many tasks."""
    theta = Sgd().init_theta(None)

    def meta_loss(theta, key):
        task_key, init_key = jax.random.split(key)
        task = problem.family.sample(task_key, jnp.int32(0))
        params, _ = task.init(init_key)

        def step(carry, _):
            params, state = carry
            loss, grads = jax.value_and_grad(lambda p: task.loss(p, (), None, ())[0])(params)
            updates, state = Sgd().update(theta, grads, state, params, value=loss)
            return (jax.tree.map(jnp.add, params, updates), state), loss

        state = Sgd().init(theta, params, jnp.int32(HORIZON))
        return jnp.mean(jax.lax.scan(step, (params, state), None, HORIZON)[1])

    keys = jax.random.split(jax.random.key(7), 50_000)
    gradients = jax.jit(jax.vmap(jax.grad(meta_loss), in_axes=(None, 0)))(theta, keys)["sgd"]
    stacked = np.stack([gradients["log_rate"], gradients["slope"]])
    return stacked.mean(axis=1), stacked.std(axis=1) / np.sqrt(stacked.shape[1])


def estimates(problem, forget: bool, noise_truncations: int = 1):
    """(mean, standard error) of PES gradients over whole episodes; `forget` makes it truncated ES."""
    theta = Sgd().init_theta(None)
    pes = PES(problem, truncation_length=LENGTH, std=0.01, noise_truncations=noise_truncations)

    @jax.jit
    def run(key):
        key_init, key_run = jax.random.split(key)
        state = pes.init(theta, key_init, jnp.arange(PARTICLES, dtype=jnp.int32))

        def one(state, key):
            if forget:
                nothing = jax.tree.map(jnp.zeros_like, (state.epsilon, state.earlier))
                state = state._replace(epsilon=nothing[0], earlier=nothing[1])
            estimate, state = pes.estimate(theta, state, key)
            return state, estimate.gradient["sgd"]

        keys = jax.random.split(key_run, TRUNCATIONS * (BLOCKS + 1))
        return jax.lax.scan(one, state, keys)[1]

    gradients = run(jax.random.key(3))
    stacked = np.stack([gradients["log_rate"], gradients["slope"]])
    # The first episodes began before PES watched; the rest are means over whole episodes.
    blocks = stacked.reshape(2, BLOCKS + 1, TRUNCATIONS).mean(axis=2)[:, 1:]
    return blocks.mean(axis=1), blocks.std(axis=1, ddof=1) / np.sqrt(BLOCKS)


@pytest.mark.parametrize("noise_truncations", [1, 2, WHOLE_LIFE], ids=["pes", "gpes", "nres"])
def test_unbiased_against_back_propagation(problem, exact, noise_truncations):
    mean, error = estimates(problem, False, noise_truncations)
    distance = np.abs(mean - exact[0]) / np.hypot(error, exact[1])
    assert (np.abs(exact[0]) > 10 * np.hypot(error, exact[1])).all(), "the error bars say nothing"
    assert (distance < 4).all(), (mean, error, exact)


def test_without_accumulator_the_estimate_is_biased(problem, exact):
    """The test above would notice: truncated ES is off by many of its error bars."""
    mean, error = estimates(problem, forget=True)
    distance = np.abs(mean - exact[0]) / np.hypot(error, exact[1])
    assert distance.max() > 10, (mean, error, exact)


def test_pairs_share_everything_but_noise(problem):
    """With a vanishing perturbation both sides see equal losses, also after resets."""
    theta = Sgd().init_theta(None)
    pes = PES(problem, truncation_length=LENGTH, std=1e-30)
    state = jax.jit(pes.init)(theta, jax.random.key(0), jnp.arange(8, dtype=jnp.int32))
    estimate_once = jax.jit(pes.estimate)
    for i in range(2 * TRUNCATIONS):
        estimate, state = estimate_once(theta, state, jax.random.key(i))
        for a, b in zip(jax.tree.leaves(state.positive), jax.tree.leaves(state.negative), strict=True):
            np.testing.assert_array_equal(a, b)
        assert np.isfinite(estimate.meta_loss)


def test_particles_do_not_depend_on_their_neighbours(problem):
    """Particle 5 draws the same whether it runs with eight others or alone: the shards' contract."""
    theta = Sgd().init_theta(None)
    pes = PES(problem, truncation_length=LENGTH, std=0.01)

    @jax.jit
    def losses(index):
        state = pes.init(theta, jax.random.key(0), index)
        return pes.estimate(theta, state, jax.random.key(1))[0].particle_losses

    many, one = losses(jnp.arange(8, dtype=jnp.int32)), losses(jnp.array([5], jnp.int32))
    np.testing.assert_allclose(one[0], many[5], rtol=1e-6)


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"truncation_length": 0}])
def test_settings_are_refused(problem, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(CeloError, match=f"{name}, got {value}"):
        PES(problem, **settings)
