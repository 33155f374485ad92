"""The meta-loss of finished weights."""

import math

import jax
import pytest

from celo.meta import Recipe, measure
from celo.optimizers import Celo

RECIPE = Recipe(tasks=("quadratic",), truncation_length=5, horizon_min=10, horizon_max=30, scheduler_steps=0)


@pytest.fixture(scope="module")
def theta():
    return Celo().init_theta(jax.random.key(0))


@pytest.mark.slow
def test_it_repeats_itself_and_other_problems_give_the_same_within_the_error(theta):
    one, again = (measure(theta, RECIPE, kernel="xla", problems=200, seed=1) for _ in range(2))
    assert one == again
    other = measure(theta, RECIPE, kernel="xla", problems=200, seed=2)
    assert other.meta_loss != one.meta_loss
    assert abs(other.meta_loss - one.meta_loss) < 5 * (one.standard_error + other.standard_error)
    assert one.task_losses == pytest.approx({"quadratic": one.meta_loss}, rel=1e-5)


@pytest.mark.slow
def test_a_rule_that_does_not_move_keeps_the_loss_of_the_start(theta):
    """On quadratics half the sum of curvature times squared distance: 10 * mean curvature on average."""
    head = theta["update_rule"]
    still = {**theta, "update_rule": {**head, "w2": 0 * head["w2"], "b2": 0 * head["b2"]}}
    found = measure(still, RECIPE, kernel="xla", problems=400)
    assert abs(found.meta_loss - 10 * 9 / math.log(10)) < 4 * found.standard_error
