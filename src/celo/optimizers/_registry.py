"""Every learned optimizer under the name that its weights files carry.

A new optimizer is one file and one line here, or one entry that your own module adds: meta-training,
conversion, evaluation, `celo info` and the contract tests all read this table.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import optax

from celo._definitions import CELO2_STEP, MIXTURE_SCALES
from celo.optimizers._adafac_mlp import GROUP as ADAFAC_MLP
from celo.optimizers._adafac_mlp import AdafacMLP, adafac_mlp
from celo.optimizers._base import LearnedOptimizer
from celo.optimizers._celo import Celo, celo
from celo.optimizers._celo2 import Celo2, celo2, celo2_base
from celo.optimizers._celo_adam import CeloAdam, celo_adam
from celo.optimizers._decayed_rule import DecayedRule
from celo.optimizers._nn_adam import GROUP as NN_ADAM
from celo.optimizers._nn_adam import NNAdam, nn_adam
from celo.optimizers._rnn_mlp import GROUP as RNN_MLP
from celo.optimizers._rnn_mlp import RNNMLP, rnn_mlp
from celo.optimizers._schedule import GROUP as SCHEDULER
from celo.optimizers._update_rule import GROUP as RULE
from celo.optimizers._update_rule import UpdateRule, celo_rule
from celo.optimizers._velo import Velo, velo

MakeOptimizer = Callable[..., LearnedOptimizer]  # takes kernel=
MakeTransform = Callable[..., optax.GradientTransformationExtraArgs]


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
    transform: MakeTransform
    phases: tuple[TrainingPhase, ...]


def _without_horizon(make: MakeTransform) -> MakeTransform:
    """`make`, which has no use for a horizon, as entries have it."""

    def transform(num_steps: int, **settings) -> optax.GradientTransformationExtraArgs:
        del num_steps
        return make(**settings)

    return transform


def _in_one_go(optimizer: MakeOptimizer, group: str, make: MakeTransform) -> Entry:
    """The entry of an optimizer that has no horizon, and whose weights are all trained together."""
    return Entry(optimizer, _without_horizon(make), (TrainingPhase("rule", (group,), optimizer),))


def _velo(architecture: str, **sizes: int) -> Entry:
    """VeLO in one of its sizes, trained in one go."""
    scale = MIXTURE_SCALES[architecture]
    optimizer = partial(Velo, mixture_scale=scale, **sizes)
    transform = partial(velo, mixture_scale=scale)
    return Entry(optimizer, transform, (TrainingPhase("rule", Velo.theta_groups, optimizer),))


def _celo2(optimizer: MakeOptimizer, make: MakeTransform) -> Entry:
    """Celo2 in one of its forms; the learning rate is in units of the one that it is meta-trained with."""

    def transform(
        *, learning_rate: optax.ScalarOrSchedule = 1.0, **settings
    ) -> optax.GradientTransformationExtraArgs:
        scale = optax.scale_by_learning_rate(learning_rate, flip_sign=False)
        return optax.chain(make(CELO2_STEP, **settings), scale)

    return _in_one_go(optimizer, RULE, transform)


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
    "celo2": _celo2(Celo2, celo2),
    "celo2_base": _celo2(partial(Celo2, adam_mask=False, orthogonalize=False), celo2_base),
    "celo_adam": Entry(CeloAdam, celo_adam, (TrainingPhase("scheduler", (SCHEDULER,), CeloAdam),)),
    "celo_rule": Entry(UpdateRule, _without_horizon(celo_rule), (_RULE_PHASE,)),
    "adafac_mlp": _in_one_go(AdafacMLP, ADAFAC_MLP, adafac_mlp),
    "mulo": _in_one_go(partial(AdafacMLP, hidden=32), ADAFAC_MLP, adafac_mlp),
    "nn_adam": _in_one_go(NNAdam, NN_ADAM, nn_adam),
    "rnn_mlp": _in_one_go(RNNMLP, RNN_MLP, rnn_mlp),
    "velo_s": _velo("velo_s"),
    "velo": _velo("velo", units=512, banks=256),
    "velo_4000": _velo("velo_4000", units=512, banks=256),  # as released by VeLO's authors
}
"""The registry of learned optimizers; the name is the architecture in weights files."""
