"""What the phases of a recipe are: who trains in them, from which θ, and on which tasks."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo._errors import CeloError
from celo.meta import RECIPES, Recipe, make_recipe
from celo.meta._phases import first_theta, kinds_of, largest_model, last_theta, phases, task_families
from celo.optimizers import OPTIMIZERS, Celo, CeloAdam, DecayedRule, Entry, TrainingPhase, UpdateRule
from celo.tasks import Augmented, Quadratics, make_task
from celo.weights import flatten

STEPS = {"rule_steps": 40, "scheduler_steps": 30, "refinement_steps": 20, "finish_steps": 10}


def test_each_phase_has_the_steps_and_the_rate_of_its_name():
    rates = {name.replace("steps", "learning_rate"): 1e-4 * count for name, count in STEPS.items()}
    found = phases(Recipe(**STEPS, **rates))
    assert [phase.name for phase in found] == ["rule", "scheduler", "refinement", "finish"]
    assert [phase.steps for phase in found] == [40, 30, 20, 10]
    np.testing.assert_allclose([phase.learning_rate for phase in found], [4e-3, 3e-3, 2e-3, 1e-3])
    assert [phase.trains for phase in found] == [("update_rule",), ("scheduler",)] * 2
    assert [phase.optimizer for phase in found] == [UpdateRule, Celo, Celo, Celo]


def test_phases_of_no_steps_are_left_out():
    assert [phase.name for phase in phases(Recipe(**{**STEPS, "scheduler_steps": 0}))] == [
        *("rule", "refinement", "finish")
    ]
    assert [phase.name for phase in phases(Recipe())] == ["rule", "scheduler"]  # those that are published


def test_only_the_rule_by_itself_is_trained_under_a_decay():
    found = phases(Recipe(**STEPS, rule_schedule="linear"))
    assert [phase.optimizer for phase in found] == [DecayedRule, Celo, Celo, Celo]


def test_phases_are_those_of_the_optimizers_entry(monkeypatch):
    [alone] = phases(Recipe(optimizer="celo_adam", scheduler_steps=7))
    assert (alone.name, alone.optimizer, alone.steps) == ("scheduler", CeloAdam, 7)
    entry = Entry(UpdateRule, None, (TrainingPhase("finish", ("update_rule",), UpdateRule),))
    monkeypatch.setitem(OPTIMIZERS, "mine", entry)
    [mine] = phases(Recipe(optimizer="mine", finish_steps=5))
    assert (mine.name, mine.trains, mine.steps) == ("finish", ("update_rule",), 5)


# The first weights


def flat(theta):
    return {f"{group}/{name}": x for group, part in theta.items() for name, x in part.items()}


def test_the_published_start_is_that_of_the_optimizer(key):
    found, fresh = flat(first_theta(Recipe(), key)), flat(Celo().init_theta(key))
    assert found.keys() == fresh.keys()
    for name in fresh:
        np.testing.assert_array_equal(found[name], fresh[name])


def test_a_mirrored_start_pairs_units_of_opposite_sign_in_the_rule_alone(key):
    """relu(x) - relu(-x) is x: what half of the units weigh, the others weigh with another sign."""
    found, fresh = first_theta(Recipe(rule_start="mirrored"), key), Celo().init_theta(key)
    rule = found["update_rule"]
    np.testing.assert_array_equal(rule["w0"][:, :2], -rule["w0"][:, 2:])
    np.testing.assert_array_equal(rule["w2"][:2, 0], -rule["w2"][2:, 0])
    for name, array in fresh["scheduler"].items():
        np.testing.assert_array_equal(found["scheduler"][name], array)


def test_a_rule_trained_under_a_decay_gets_a_scheduler_of_the_same_power_of_the_horizon(key):
    found = first_theta(Recipe(rule_schedule="linear"), key)
    assert found["scheduler"]["horizon_w"] == jnp.float32(-0.4)
    assert "horizon_w" not in first_theta(Recipe(), key)["scheduler"]
    alone = first_theta(Recipe(optimizer="celo_rule", rule_schedule="linear"), key)
    assert alone.keys() == {"update_rule"}  # there is no scheduler to tell


def test_weights_that_a_recipe_asks_for_begin_at_what_it_says(key):
    found = first_theta(Recipe(orthogonalize=True, min_rms=0.25), key)["update_rule"]
    np.testing.assert_allclose(np.exp(found["log_matrix_step"]), 2.5, rtol=1e-6)
    np.testing.assert_allclose(np.exp(found["log_min_rms"]), 0.25, rtol=1e-6)
    assert not {"log_matrix_step", "log_min_rms"} & first_theta(Recipe(), key)["update_rule"].keys()


def test_the_floor_of_sizes_is_put_back_at_the_end_and_nothing_else(key):
    recipe = Recipe(orthogonalize=True, min_rms=0.25, start_power=0.5)
    theta = jax.tree.map(lambda weight: weight - 1.0, first_theta(recipe, key))
    found, before = flatten(last_theta(recipe, theta)), flatten(theta)
    np.testing.assert_allclose(np.exp(found.pop("update_rule/log_min_rms")), 0.25, rtol=1e-6)
    del before["update_rule/log_min_rms"]
    jax.tree.map(np.testing.assert_array_equal, found, before)
    without = first_theta(Recipe(), key)
    assert last_theta(Recipe(), without) is without


@pytest.mark.parametrize("name", RECIPES)
def test_the_first_weights_of_every_recipe_fit_its_optimizer(name):
    recipe = RECIPES[name]
    optimizer = OPTIMIZERS[recipe.optimizer].optimizer(kernel="xla")
    shapes = jax.eval_shape(lambda key: first_theta(recipe, key), jax.random.key(0))
    fresh = jax.eval_shape(optimizer.init_theta, jax.random.key(0))
    extra = {name: x.shape for name, x in flat(shapes).items() if name not in flat(fresh)}
    assert extra.items() <= dict(optimizer.optional_theta).items()
    for path, x in flat(fresh).items():
        assert flat(shapes)[path].shape == x.shape, path


# Tasks


def test_tasks_are_the_recipes_and_those_of_the_rule_may_be_others():
    recipe = Recipe(**STEPS, tasks=("quadratic", "digits_8x8_mlp32"), rule_tasks=("quadratic",))
    rule, scheduler, *_ = phases(recipe)
    assert kinds_of(task_families(recipe, rule)) == ("quadratic",)
    assert kinds_of(task_families(recipe, scheduler)) == ("quadratic", "digits")


@pytest.mark.parametrize("level", ["global", "tensor", "parameter"])
def test_tasks_are_augmented_as_the_recipe_says(level):
    recipe = Recipe(tasks=("quadratic",), augmentation=level, augmentation_low=0.5, augmentation_high=2.0)
    [family] = task_families(recipe, phases(recipe)[0])
    assert isinstance(family, Augmented)
    factors = [family.sample(jax.random.key(seed), jnp.int32(0)).factors["x"] for seed in range(20)]
    assert all(0.499 < float(x.min()) <= float(x.max()) < 2.001 for x in factors)
    assert len({float(x.max()) for x in factors}) > 10
    [plain] = task_families(dataclasses.replace(recipe, augmentation="none"), phases(recipe)[0])
    assert plain == Quadratics()


def test_a_task_that_cannot_be_made_is_named():
    recipe = Recipe(tasks=("no_such_module:task",))
    with pytest.raises(CeloError, match="no_such_module"):
        task_families(recipe, phases(recipe)[0])


def test_the_largest_model_is_counted_in_parameters():
    """64-32-10: 64 * 32 + 32 and 32 * 10 + 10; a quadratic has its ten coordinates."""
    perceptron = make_task("digits_8x8_mlp32")
    assert largest_model([Quadratics()]) == 10
    assert largest_model([Quadratics(), perceptron, Quadratics(dim=3)]) == 2410


def test_a_rule_begins_with_the_settings_that_it_is_to_carry():
    key = jax.random.key(0)
    plain = first_theta(make_recipe("quick"), key)["update_rule"]
    recipe = make_recipe("quick", orthogonalize=True, min_rms=0.01, start_power=0.75)
    theta = first_theta(recipe, key)["update_rule"]
    settings = {"log_matrix_step", "log_min_rms", "start_power"}
    assert theta.keys() - plain.keys() == settings
    assert float(theta["start_power"]) == 0.75
    assert float(jnp.exp(theta["log_min_rms"])) == pytest.approx(0.01)
    for name, weights in plain.items():
        np.testing.assert_array_equal(theta[name], weights)
