"""Every learned optimizer under the name that its weights files carry.

A new optimizer is one file and one line here, or one entry that your own module adds: meta-training,
conversion, evaluation, `celo info` and the contract tests all read this table.
"""

import dataclasses
from collections.abc import Callable

import optax

from celo.optimizers._base import LearnedOptimizer
from celo.optimizers._celo import Celo, celo
from celo.optimizers._celo_adam import CeloAdam, celo_adam
from celo.optimizers._decayed_rule import DecayedRule
from celo.optimizers._schedule import GROUP as SCHEDULER
from celo.optimizers._update_rule import GROUP as RULE
from celo.optimizers._update_rule import UpdateRule, celo_rule

MakeOptimizer = Callable[..., LearnedOptimizer]  # takes kernel=


@dataclasses.dataclass(frozen=True)
class TrainingPhase:
    """One phase of an optimizer's meta-training.

    Attributes:
      name: that of the recipe's fields for it: "rule" has `rule_steps` and `rule_learning_rate`.
      trains: the groups of θ that move; the others are frozen.
      optimizer: what trains the inner problems in this phase.
      decayed: the same under a linear decay to zero, for recipes with `rule_schedule="linear"`; None if the
        optimizer has no such form.
    """

    name: str
    trains: tuple[str, ...]
    optimizer: MakeOptimizer
    decayed: MakeOptimizer | None = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """All that the library needs to know of a learned optimizer.

    Attributes:
      optimizer: the whole optimizer; its `init_theta` gives fresh weights, group by group.
      transform: (num_steps, *, weights, learning_rate, kernel) -> an optax transformation, as users call it.
      phases: of its meta-training, first to last; each name is one of the recipe's four: "rule",
        "scheduler", "refinement" and "finish". An optimizer trained in one go has one, "rule".
    """

    optimizer: MakeOptimizer
    transform: Callable[..., optax.GradientTransformationExtraArgs]
    phases: tuple[TrainingPhase, ...]


def _rule_transform(num_steps: int, **settings) -> optax.GradientTransformationExtraArgs:
    """The rule by itself has no use for a horizon."""
    del num_steps
    return celo_rule(**settings)


_RULE_PHASE = TrainingPhase("rule", (RULE,), UpdateRule, decayed=DecayedRule)

OPTIMIZERS: dict[str, Entry] = {
    # Two phases are published. The third refines the rule under the finished scheduler: without it a rule
    # must choose between fast steps and calm ones. The fourth trains the scheduler for the refined rule.
    "celo": Entry(
        Celo,
        celo,
        (
            _RULE_PHASE,
            TrainingPhase("scheduler", (SCHEDULER,), Celo),
            TrainingPhase("refinement", (RULE,), Celo),
            TrainingPhase("finish", (SCHEDULER,), Celo),
        ),
    ),
    "celo_adam": Entry(CeloAdam, celo_adam, (TrainingPhase("scheduler", (SCHEDULER,), CeloAdam),)),
    "celo_rule": Entry(UpdateRule, _rule_transform, (_RULE_PHASE,)),
}
"""The registry of learned optimizers; the name is the architecture in weights files."""
