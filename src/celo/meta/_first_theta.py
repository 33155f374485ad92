"""θ before any meta-training, as a recipe wants it."""

import jax.numpy as jnp

from celo._types import Key, Theta
from celo.meta._recipes import Recipe
from celo.optimizers import Celo
from celo.optimizers import _schedule as scheduler
from celo.optimizers import _update_rule as update_rule
from celo.optimizers._decayed import HORIZON_POWER
from celo.optimizers._mirrored import mirrored


def first_theta(recipe: Recipe, key: Key) -> Theta:
    """Fresh weights; a rule that trains under a decay to the horizon gets a scheduler that knows of it."""
    theta = Celo().init_theta(key)
    rule, schedule = theta[update_rule.GROUP], theta[scheduler.GROUP]
    if recipe.rule_start == "mirrored":
        rule = mirrored(rule)
    if recipe.rule_schedule == "linear":
        schedule = {**schedule, "horizon_w": jnp.asarray(HORIZON_POWER, jnp.float32)}
    return {update_rule.GROUP: rule, scheduler.GROUP: schedule}
