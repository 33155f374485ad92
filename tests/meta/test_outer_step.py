"""The outer step: what moves θ, what stays frozen, and how families of tasks count."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from celo.meta import Recipe
from celo.meta._outer_step import PhaseProgram, outer_optimizer
from celo.meta._phases import first_theta, kinds_of, phases, task_families
from celo.optimizers import Celo

TINY = {
    "tasks": ("quadratic",),
    "estimator": "nres",
    "rule_steps": 40,
    "scheduler_steps": 30,
    "pairs_per_task": 4,
    "truncation_length": 5,
    "horizon_min": 10,
    "horizon_max": 30,
    "rule_learning_rate": 1e-2,
    "scheduler_learning_rate": 1e-2,
    "learning_rate_end": 1e-3,
}
GOLDEN = Path(__file__).parents[1] / "golden" / "outer_adamw.npz"


def test_outer_optimizer_takes_the_published_steps():
    """Decay 1e-4 times the rate 3e-4 is below float32 resolution there. Frozen groups are apart."""
    numbers = np.load(GOLDEN)
    trained = sorted({key.split("/", 1)[1] for key in numbers if key.startswith("grad0/rnn_params")})
    adamw = outer_optimizer(Recipe(), phases(Recipe())[1])
    theta = {name: numbers[f"theta0/{name}"] for name in trained}
    state = adamw.init(theta)
    for step in range(5):
        gradient = {name: numbers[f"grad{step}/{name}"] for name in trained}
        updates, state = adamw.update(gradient, state, theta)
        theta = optax.apply_updates(theta, updates)
        for name in trained:
            moved = np.abs(numbers[f"theta5/{name}"] - numbers[f"theta0/{name}"]).max()
            np.testing.assert_allclose(
                theta[name], numbers[f"theta{step + 1}/{name}"], rtol=0, atol=1e-3 * moved
            )


def steps_of(recipe, gradients, theta=1.0):
    """The updates of one weight, a number or an array, under these gradients, one after another."""
    optimizer = outer_optimizer(recipe, phases(recipe)[0])
    theta = np.float32(theta)
    state, updates = optimizer.init(theta), []
    for gradient in gradients:
        update, state = optimizer.update(np.full_like(theta, gradient), state, theta)
        updates.append(np.asarray(update))
    return np.array(updates)


def test_the_rate_warms_up_and_falls_along_a_cosine():
    recipe = Recipe(rule_steps=10, warmup_steps=2, rule_learning_rate=0.1, learning_rate_end=0.01)
    expected = [0.0, 0.05, *(0.01 + 0.09 * (1 + np.cos(np.pi * np.arange(9) / 8)) / 2)]
    # Under one gradient again and again a step of Adam is the rate.
    np.testing.assert_allclose(-steps_of(recipe, [1.0] * 11, theta=0.0), expected, rtol=1e-4, atol=1e-8)


def test_meta_gradients_are_clipped_before_adam_sees_them():
    calm = Recipe(gradient_clip=1.0)
    np.testing.assert_allclose(steps_of(calm, [100.0, 1.0, 7.0]), steps_of(calm, [1.0] * 3), rtol=1e-5)
    assert abs(steps_of(Recipe(), [100.0, 1.0]) - steps_of(Recipe(), [1.0] * 2))[1] > 1e-5


def test_weights_decay_decoupled_from_the_gradient():
    recipe = Recipe(weight_decay=0.5)
    np.testing.assert_allclose(
        steps_of(recipe, [0.0], theta=[3.0]), [[-recipe.rule_learning_rate * 0.5 * 3]], rtol=1e-5
    )


def test_scalars_of_theta_do_not_decay():
    """Decay would pull a learned gain to 1, and a learned floor of sizes to 1 too."""
    assert steps_of(Recipe(weight_decay=0.5), [0.0], theta=-4.6) == 0


@pytest.mark.slow
def test_weights_that_are_settings_stay_as_the_recipe_gave_them():
    recipe = Recipe(**TINY, orthogonalize=True, start_power=0.5)
    phase = phases(recipe)[0]
    program = PhaseProgram(recipe, phase, task_families(recipe, phase))
    state, frozen = program.init(first_theta(recipe, jax.random.key(0)), jax.random.key(1))
    assert frozen["update_rule"].keys() == {"start_power"}
    state, _ = program.advance(state, frozen, 2)
    assert state.theta.keys() == {"update_rule"}
    assert "start_power" not in state.theta["update_rule"]
    assert float(state.theta["update_rule"]["log_matrix_step"]) != 0.0


def test_frozen_weights_are_neither_updated_nor_decayed_nor_perturbed():
    recipe = Recipe(**TINY, weight_decay=0.1)
    program = PhaseProgram(recipe, phases(recipe)[1], task_families(recipe, phases(recipe)[1]))
    theta = Celo().init_theta(jax.random.key(0))
    state, frozen = program.init(theta, jax.random.key(1))
    before = jax.tree.map(np.array, frozen)
    assert set(state.theta) == set(state.estimators[0].epsilon) == {"scheduler"}
    state, _ = program.advance(state, frozen, 3)
    assert set(state.theta) == set(state.estimators[0].epsilon) == {"scheduler"}
    jax.tree.map(np.testing.assert_array_equal, frozen, before)
    moved = jax.tree.map(
        lambda a, b: bool((np.asarray(a) != np.asarray(b)).any()),
        state.theta,
        {"scheduler": theta["scheduler"]},
    )
    assert all(jax.tree.leaves(moved)), moved


@pytest.fixture(scope="module")
def program():
    """Of the first phase, whose weights decay."""
    recipe = Recipe(**TINY, weight_decay=0.1)
    phase = phases(recipe)[0]
    return PhaseProgram(recipe, phase, task_families(recipe, phase))


def test_a_first_step_is_that_of_the_outer_optimizer(program):
    """Adam's first step is the rate in every weight, whatever the gradient, and the decay comes on top."""
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    before = jax.device_get(state.theta)["update_rule"]
    after = jax.device_get(program.advance(state, frozen, 1)[0].theta)["update_rule"]
    moved = np.concatenate([(after[n] - before[n] * (1 - 0.1 * 1e-2)).ravel() for n in before])
    assert np.median(np.abs(moved)) == pytest.approx(1e-2, rel=1e-3)
    assert np.abs(moved).max() < 1.001e-2


def test_one_call_compiles_once(program):
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    for count in (1, 3, 2):
        state, _ = program.advance(state, frozen, count)
    assert program._advance._cache_size() == 1


def test_an_experts_share_fades_in_the_first_phase_alone():
    recipe = Recipe(**TINY, expert_steps=20, expert_share=0.8)
    first, second = phases(recipe)
    assert (first.expert_steps, second.expert_steps) == (20, 0)
    families = task_families(recipe, first)
    program = PhaseProgram(recipe, first, families)
    shares = [float(program._expert(jnp.int32(step)).share) for step in (0, 5, 19, 20, 1000)]
    np.testing.assert_allclose(shares, [0.8, 0.6, 0.04, 0.0, 0.0], atol=1e-6)
    assert PhaseProgram(recipe, second, families)._expert(jnp.int32(0)) is None


def test_pairs_say_how_much_of_the_meta_gradient_is_noise(program):
    """The mean over pairs is no longer than they are on average, and so much shorter as they disagree."""
    assert program.pairs == TINY["pairs_per_task"]
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    _, seen = program.advance(state, frozen, 1)
    assert float(seen.gradient_square) == pytest.approx(float(seen.gradient_norm) ** 2, rel=1e-5)
    assert 0 < seen.gradient_square <= seen.pair_square


@pytest.mark.slow
def test_families_train_together_and_each_counts_by_its_kinds():
    """Each family has problems of its own, and its losses go to its own kinds."""
    recipe = Recipe(**{**TINY, "tasks": ("quadratic", "quadratic"), "scheduler_steps": 0}, average_decay=0.5)
    families = task_families(recipe, phases(recipe)[0])
    assert kinds_of(families) == ("quadratic", "quadratic")
    program = PhaseProgram(recipe, phases(recipe)[0], families)
    state, frozen = program.init(Celo().init_theta(jax.random.key(0)), jax.random.key(1))
    assert len(state.estimators) == 2
    first, second = (np.asarray(particles.positive.task.task.centre) for particles in state.estimators)
    assert (first != second).any()  # each family has problems of its own
    before = jax.device_get(state.theta)
    state, progress = program.advance(state, frozen, 1)
    assert progress.inner_steps == 2 * 2 * recipe.pairs_per_task * recipe.truncation_length
    assert float(progress.meta_loss) == pytest.approx(float(np.mean(progress.task_losses)), rel=1e-5)
    after, average = jax.device_get((state.theta, state.average))
    decay = 1 / 10  # of a young average
    jax.tree.map(
        lambda b, a, m: np.testing.assert_allclose(m, decay * b + (1 - decay) * a, atol=1e-6),
        before,
        after,
        average,
    )
