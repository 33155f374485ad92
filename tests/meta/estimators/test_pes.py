"""PES: the published numbers, and unbiasedness against back-propagation."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta._estimators.pes import PES, WHOLE_LIFE, pes_gradient

GOLDEN = Path(__file__).parents[2] / "golden" / "pes_grad.npz"


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


PARTICLES, BLOCKS = 2048, 30


def estimates(problem, forget: bool, noise_truncations: int = 1):
    """(mean, standard error) of PES gradients over whole episodes; `forget` drops the accumulator."""
    theta = problem.optimizer.init_theta(None)
    pes = PES(problem, problem.truncation_length, 0.01, noise_truncations)
    truncations = problem.horizon_max // problem.truncation_length

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

        keys = jax.random.split(key_run, truncations * (BLOCKS + 1))
        return jax.lax.scan(one, state, keys)[1]

    gradients = run(jax.random.key(3))
    stacked = np.stack([gradients["log_rate"], gradients["slope"]])
    # The first episodes began before PES watched; the rest are means over whole episodes.
    blocks = stacked.reshape(2, BLOCKS + 1, truncations).mean(axis=2)[:, 1:]
    return blocks.mean(axis=1), blocks.std(axis=1, ddof=1) / np.sqrt(BLOCKS)


@pytest.mark.parametrize(
    "noise_truncations",
    [1, pytest.param(2, marks=pytest.mark.slow), pytest.param(WHOLE_LIFE, marks=pytest.mark.slow)],
    ids=["pes", "gpes", "nres"],
)
def test_unbiased_against_back_propagation(problem, exact, noise_truncations):
    mean, error = estimates(problem, False, noise_truncations)
    distance = np.abs(mean - exact[0]) / np.hypot(error, exact[1])
    assert (np.abs(exact[0]) > 10 * np.hypot(error, exact[1])).all(), "the error bars say nothing"
    assert (distance < 4).all(), (mean, error, exact)


@pytest.mark.slow
def test_without_accumulator_the_estimate_is_biased(problem, exact):
    """The test above would notice: such an estimate is off by many of its error bars."""
    mean, error = estimates(problem, forget=True)
    distance = np.abs(mean - exact[0]) / np.hypot(error, exact[1])
    assert distance.max() > 10, (mean, error, exact)


def test_pairs_share_everything_but_noise(problem):
    """With a vanishing perturbation both sides see equal losses, also after resets."""
    theta = problem.optimizer.init_theta(None)
    pes = PES(problem, problem.truncation_length, std=1e-30)
    state = jax.jit(pes.init)(theta, jax.random.key(0), jnp.arange(8, dtype=jnp.int32))
    estimate_once = jax.jit(pes.estimate)
    for i in range(8):
        estimate, state = estimate_once(theta, state, jax.random.key(i))
        for a, b in zip(jax.tree.leaves(state.positive), jax.tree.leaves(state.negative), strict=True):
            np.testing.assert_array_equal(a, b)
        assert np.isfinite(estimate.meta_loss)


@pytest.mark.parametrize("settings", [{"std": 0.0}, {"truncation_length": 0}])
def test_settings_are_refused(problem, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(CeloError, match=f"{name}, got {value}"):
        PES(problem, **settings)
