"""Recipes: what is refused, and the forms in which they are written and stored."""

import dataclasses
import json
import re

import jax
import pytest

from celo import weights
from celo._errors import CeloError
from celo.meta import RECIPES, Recipe, make_recipe, measure, start
from celo.meta._phases import first_theta


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rule_steps", 0),
        ("pairs_per_task", 0),
        ("std", -1.0),
        ("rule_learning_rate", float("nan")),
        ("horizon_max", 99),
        ("horizon_power", float("inf")),
        ("augmentation", "globl"),
        ("augmentation_low", 0.0),
        ("tasks", ("quadratik",)),
        ("rule_tasks", ("quadratik",)),
        ("optimizer", "cello"),
        ("seed", -1),
    ],
)
def test_recipe_fields_are_checked_by_name(field, value):
    with pytest.raises(CeloError, match=re.escape(value[0] if isinstance(value, tuple) else str(value))):
        make_recipe("celo", **{field: value})


def test_unknown_recipes_and_fields_list_the_nearest():
    with pytest.raises(CeloError, match="unknown recipe 'quik'; known, nearest first: quick"):
        make_recipe("quik")
    with pytest.raises(CeloError, match="unknown recipe field 'step'"):
        make_recipe("quick", step=3)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_stored_as_json_is_the_same_recipe(name):
    recipe = RECIPES[name]
    assert Recipe(**json.loads(json.dumps(dataclasses.asdict(recipe)))) == recipe


def test_tasks_are_names_and_older_files_have_them_in_one_text():
    recipe = Recipe(tasks="quadratic, celo_image_mlps", rule_tasks="quadratic")
    assert recipe == Recipe(tasks=("quadratic", "celo_image_mlps"), rule_tasks=("quadratic",))
    assert recipe.families("rule") == ("quadratic",)
    assert recipe.families("scheduler") == ("quadratic", "celo_image_mlps")
    assert Recipe(tasks=("quadratic",), rule_tasks="").families("rule") == ("quadratic",)
    with pytest.raises(CeloError, match="at least one"):
        Recipe(tasks="")


def test_the_bundled_weights_are_those_of_the_recipe_laptop():
    assert Recipe(**weights.load("celo").facts["recipe"]) == dataclasses.replace(RECIPES["laptop"], seed=2)


def test_a_recipe_stored_before_recipes_named_their_optimizer_is_read():
    recipe = Recipe(**weights.load("celo-1").facts["recipe"])
    assert (recipe.optimizer, recipe.rule_steps, recipe.orthogonalize) == ("celo", 8_000, False)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        ("celo_adam", {"rule_start": "mirrored"}),
        ("celo_adam", {"rule_schedule": "linear"}),
        ("celo_adam", {"imitation_steps": 10}),
        ("celo_rule", {"imitation_steps": 10}),
        ("celo2", {"orthogonalize": True}),
        ("celo2", {"min_rms": 0.01}),
        ("celo2", {"rule_schedule": "linear"}),
        ("celo2_base", {"imitation_steps": 10}),
    ],
)
def test_what_the_optimizer_does_not_have_is_refused(optimizer, settings):
    (name, value), *_ = settings.items()
    with pytest.raises(CeloError, match=rf"'{optimizer}' does not fit.*{name}={value!r} needs.*Set {name}="):
        Recipe(optimizer=optimizer, **settings)


def test_all_that_the_optimizer_does_not_have_is_told_at_once():
    with pytest.raises(CeloError) as error:
        make_recipe("quick", optimizer="celo_adam")
    assert "Set rule_start='normal', rule_schedule='constant', imitation_steps=0" in str(error.value)


def test_the_first_phase_needs_steps():
    with pytest.raises(CeloError, match="scheduler_steps must be positive"):
        Recipe(optimizer="celo_adam", scheduler_steps=0)
    assert Recipe(optimizer="celo_adam", rule_steps=0).rule_steps == 0


def test_an_optimizer_of_ones_own_must_be_registered_first():
    with pytest.raises(CeloError, match=r"unknown optimizer 'mine'.*imported"):
        Recipe(optimizer="mine")


@pytest.mark.slow  # minutes, most of it for RNN-MLP
@pytest.mark.parametrize(
    ("name", "rate"),
    [("adafac-mlp", 1e-2), ("rnn-mlp", 3e-3), ("nn-adam", 1e-2), ("velo-s", 4e-2)],
)
def test_two_hundred_outer_steps_lower_the_meta_loss(name, rate, tmp_path):
    """At a larger rate than the published 1e-4, on images that come with scikit-learn, in short trainings."""
    recipe = make_recipe(
        name,
        tasks=("digits_8x8_mlp32",),
        rule_steps=200,
        rule_learning_rate=rate,
        learning_rate_end=rate / 10,
        gradient_clip=1.0,
        truncation_length=20,
        horizon_min=50,
        horizon_max=200,
        augmentation="none",
    )
    start(tmp_path / "run", recipe)
    trained = weights.load(tmp_path / "run" / "theta.safetensors").theta
    fresh = first_theta(recipe, jax.random.split(jax.random.key(recipe.seed), 2)[0])
    before, after = (measure(theta, recipe, problems=32) for theta in (fresh, trained))
    assert after.meta_loss < before.meta_loss - 3 * (before.standard_error + after.standard_error)
