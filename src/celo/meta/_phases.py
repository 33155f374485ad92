"""What the phases of a recipe are: who trains in them, on which tasks, for how long, and from which θ.

How a phase is computed is in `_outer_step`.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from celo._types import Array, Key, Theta
from celo.meta._recipes import Recipe
from celo.optimizers import _schedule as schedule
from celo.optimizers import _update_rule as update_rule
from celo.optimizers._decayed_rule import HORIZON_POWER
from celo.optimizers._registry import OPTIMIZERS, MakeOptimizer
from celo.tasks._augment import Augmented, Reparametrisation
from celo.tasks._base import TaskFamily
from celo.tasks._registry import make_task

MATRIX_STEP = 2.5  # hundredths of a matrix's size, about where meta-training takes it


@dataclasses.dataclass(frozen=True)
class Phase:
    """One phase of a run.

    Attributes:
      name: "rule", "scheduler", "refinement" or "finish".
      optimizer: what trains the inner problems; takes `kernel`.
      trains: the groups of θ that move; the others are frozen.
      steps: outer steps.
      learning_rate: of the outer optimizer, before it falls.
      expert_steps: outer steps in which the expert's share in inner steps falls to zero; 0: no expert.
    """

    name: str
    optimizer: MakeOptimizer
    trains: tuple[str, ...]
    steps: int
    learning_rate: float
    expert_steps: int = 0


def phases(recipe: Recipe) -> tuple[Phase, ...]:
    """The phases that the recipe's optimizer has in its registry entry, without those of zero steps."""
    every = (
        Phase(
            name=phase.name,
            optimizer=phase.decayed
            if phase.decayed and recipe.rule_schedule == "linear"
            else phase.optimizer,
            trains=phase.trains,
            steps=getattr(recipe, f"{phase.name}_steps"),
            learning_rate=getattr(recipe, f"{phase.name}_learning_rate"),
            # Later phases begin with weights that need no teacher.
            expert_steps=0 if number else recipe.expert_steps,
        )
        for number, phase in enumerate(OPTIMIZERS[recipe.optimizer].phases)
    )
    return tuple(phase for phase in every if phase.steps > 0)


def first_theta(recipe: Recipe, key: Key) -> Theta:
    """Fresh weights of the recipe's optimizer, with the beginning that the recipe asks for.

    A rule trained under a decay to the horizon gets a scheduler whose step depends on the horizon as that
    of the decay does.
    """
    theta = OPTIMIZERS[recipe.optimizer].optimizer(kernel="xla").init_theta(key)  # no kernel runs here
    if recipe.rule_start == "mirrored":
        theta = {**theta, update_rule.GROUP: update_rule.mirrored(theta[update_rule.GROUP])}
    extra = {}
    if recipe.orthogonalize:
        extra["log_matrix_step"] = jnp.log(jnp.float32(MATRIX_STEP))
    if recipe.start_power:
        extra["start_power"] = jnp.float32(recipe.start_power)
    extra |= _floor(recipe)
    if extra:
        theta = {**theta, update_rule.GROUP: {**theta[update_rule.GROUP], **extra}}
    if recipe.rule_schedule == "linear" and schedule.GROUP in theta:
        horizon_w = jnp.asarray(HORIZON_POWER, jnp.float32)
        theta = {**theta, schedule.GROUP: {**theta[schedule.GROUP], "horizon_w": horizon_w}}
    return theta


def last_theta(recipe: Recipe, theta: Theta) -> Theta:
    """Weights as they are for use: trained, but with the floor of sizes that the recipe has.

    Augmented tasks have tensors far smaller than real ones. On them meta-training takes the floor down to a
    tenth, at which a real bias, that starts at zero, moves too slowly (`results/LOG.md`).
    """
    if not recipe.min_rms:
        return theta
    return {**theta, update_rule.GROUP: {**theta[update_rule.GROUP], **_floor(recipe)}}


def _floor(recipe: Recipe) -> dict[str, Array]:
    """The floor of sizes that the recipe asks for, if it does, as a part of the rule's weights."""
    return {"log_min_rms": jnp.log(jnp.float32(recipe.min_rms))} if recipe.min_rms else {}


def task_families(recipe: Recipe, phase: Phase) -> tuple[TaskFamily, ...]:
    """The families of tasks that a phase trains on, augmented as the recipe says.

    Raises:
      CeloError: if the data or a package that a task needs is missing, or there is none at its import path.
    """
    families = tuple(make_task(name) for name in recipe.families(phase.name))
    if recipe.augmentation == "none":
        return families
    low, high = recipe.augmentation_low, recipe.augmentation_high
    augmentation = Reparametrisation(recipe.augmentation, low, high)
    return tuple(Augmented(family, augmentation) for family in families)


def kinds_of(families: Sequence[TaskFamily]) -> tuple[str, ...]:
    """Names of all kinds of task in the families, family by family."""
    return tuple(member for family in families for member in family.members)


def largest_model(families: Sequence[TaskFamily]) -> int:
    """How many parameters the largest model among the families' tasks has."""

    def params(key: Key, family: TaskFamily) -> Any:
        return family.sample(key, jnp.zeros((), jnp.int32)).init(key)[0]

    shapes = [jax.eval_shape(lambda key, f=family: params(key, f), jax.random.key(0)) for family in families]
    return max(sum(leaf.size for leaf in jax.tree.leaves(model)) for model in shapes)
