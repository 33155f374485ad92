"""Meta-training recipes: named, frozen settings of a whole run, all phases."""

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import field

from celo._errors import CeloError, unknown_name
from celo.meta._estimators import ESTIMATORS, RESUMABLE
from celo.meta._objective import SCALES, Objective
from celo.optimizers import _schedule as schedule
from celo.optimizers import _update_rule as update_rule
from celo.optimizers._registry import OPTIMIZERS
from celo.tasks._augment import Reparametrisation
from celo.tasks._registry import TASKS

RULE_SCHEDULES = ("constant", "linear")  # what multiplies the rule's step in phase 1
RULE_STARTS = ("normal", "mirrored")
PHASES = ("rule", "scheduler", "refinement", "finish")  # names that phases of an optimizer may have


def _setting(default, text: str):
    return field(default=default, metadata={"help": text})


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Everything that decides a run. Defaults are those of Celo (arXiv 2501.12670, section 4).

    Phases are those of the optimizer's entry in `celo.optimizers.OPTIMIZERS`; settings of phases that it does
    not have are ignored. A task is a name in `celo.tasks.TASKS` or the import path of your own,
    "package.module:attribute". One text of names with commas between them, the form in which older files
    store tasks, is accepted too.

    Raises:
      CeloError: if a value is out of range or names something unknown, or the optimizer lacks what is asked.
    """

    optimizer: str = _setting("celo", "learned optimizer to train, by its name in the registry")
    tasks: tuple[str, ...] = _setting(
        ("celo_image_mlps",), "families of tasks to train on: names, or package.module:attribute"
    )
    rule_tasks: tuple[str, ...] = _setting((), "families of tasks for phase 1, if different from tasks")
    rule_steps: int = _setting(100_000, "outer steps of phase 1, which trains the update rule")
    rule_start: str = _setting("normal", f"first weights of the rule: {' or '.join(RULE_STARTS)}")
    orthogonalize: bool = _setting(
        False, "whether matrices step along their orthogonalised momentum, and the rule has the other tensors"
    )
    start_power: float = _setting(
        0.0,
        "power of a matrix's size at its first step in the length of its steps, where its own size has the "
        "rest: from 0 to 1; not trained",
    )
    min_rms: float = _setting(
        0.0,
        "size, as root mean square, that a tensor counts as at least; trained along, and put back at the end",
    )
    rule_schedule: str = _setting(
        "constant", f"schedule of the rule's step in phase 1: {' or '.join(RULE_SCHEDULES)}"
    )
    imitation_steps: int = _setting(
        0, "back-propagation steps that teach the scheduler a linear decay before phase 2"
    )
    scheduler_steps: int = _setting(100_000, "outer steps of phase 2, which trains the scheduler")
    refinement_steps: int = _setting(0, "outer steps of phase 3, which trains the rule under the scheduler")
    finish_steps: int = _setting(0, "outer steps of phase 4, which trains the scheduler once more")
    pairs_per_task: int = _setting(8, "antithetic pairs for each kind of task")
    truncation_length: int = _setting(50, "inner steps in one truncation")
    std: float = _setting(0.01, "standard deviation of the perturbations of θ")
    estimator: str = _setting("pes", f"estimator of the meta-gradient: {', '.join(ESTIMATORS)}")
    objective: str = _setting("loss", f"what is minimized: {' or '.join(SCALES)}")
    lateness: float = _setting(0.0, "p: a step at the fraction u of its training has weight (p + 1) u^p")
    resume_slots: int = _setting(
        0, "ends of inner trainings that each pair keeps, to begin new ones from; 0: all begin afresh"
    )
    resume_share: float = _setting(0.8, "share of new inner trainings that begin from a kept end")
    expert_steps: int = _setting(
        0, "outer steps of the first phase in which a hand-made expert's share in inner steps falls to 0"
    )
    expert_share: float = _setting(1.0, "the expert's share at the beginning, from 0 to 1")
    expert_learning_rate: float = _setting(
        0.01, "the expert's first step relative to a tensor's size, along a cosine to 0"
    )
    horizon_min: int = _setting(100, "shortest inner training, in steps")
    horizon_max: int = _setting(2000, "longest inner training, in steps")
    horizon_power: float = _setting(
        1.0, "p: horizons h have density h^-p; 1 is log-uniform, at 2 each scale gets as many steps"
    )
    rule_learning_rate: float = _setting(3e-4, "AdamW's learning rate for θ at the start of phase 1")
    scheduler_learning_rate: float = _setting(3e-4, "AdamW's learning rate for θ at the start of phase 2")
    refinement_learning_rate: float = _setting(3e-4, "AdamW's learning rate for θ at the start of phase 3")
    finish_learning_rate: float = _setting(3e-4, "AdamW's learning rate for θ at the start of phase 4")
    warmup_steps: int = _setting(0, "outer steps in which each phase's learning rate rises from zero")
    learning_rate_end: float = _setting(
        3e-4, "AdamW's learning rate at the end of each phase, reached along a cosine"
    )
    weight_decay: float = _setting(1e-4, "AdamW's decoupled weight decay on θ")
    gradient_clip: float = _setting(math.inf, "largest norm of the meta-gradient that AdamW sees")
    average_decay: float = _setting(
        0.0, "decay of the moving average of θ that a phase ends with; 0: its last θ"
    )
    augmentation: str = _setting("global", "reparametrisation level: none, global, tensor, parameter")
    augmentation_low: float = _setting(1e-3, "smallest reparametrisation factor")
    augmentation_high: float = _setting(1e3, "largest reparametrisation factor")
    seed: int = _setting(0, "decides everything random")

    def __post_init__(self):
        for name in ("tasks", "rule_tasks"):
            object.__setattr__(self, name, _names(getattr(self, name)))
        if not self.tasks:
            raise CeloError("tasks must name at least one family of tasks, got none")
        for name in (*self.tasks, *self.rule_tasks):
            if name not in TASKS and ":" not in name:
                raise unknown_name("task", name, TASKS)
        if self.estimator not in ESTIMATORS:
            raise unknown_name("estimator", self.estimator, ESTIMATORS)
        if self.rule_start not in RULE_STARTS:
            raise unknown_name("rule_start", self.rule_start, RULE_STARTS)
        if self.rule_schedule not in RULE_SCHEDULES:
            raise unknown_name("rule_schedule", self.rule_schedule, RULE_SCHEDULES)
        self._check_numbers()
        self._check_optimizer()

    def _check_numbers(self) -> None:
        Objective(self.objective, self.lateness)
        Reparametrisation(self.augmentation, self.augmentation_low, self.augmentation_high)
        positive = ("pairs_per_task", "truncation_length", "horizon_min", "std", "gradient_clip")
        rates = tuple(f"{phase}_learning_rate" for phase in (*PHASES, "expert"))
        for name in (*positive, *rates):
            if not getattr(self, name) > 0:
                raise CeloError(f"{name} must be positive, got {getattr(self, name)}")
        steps = tuple(f"{part}_steps" for part in (*PHASES, "imitation", "warmup", "expert"))
        others = ("learning_rate_end", "average_decay", "weight_decay", "min_rms", "resume_slots", "seed")
        for name in (*steps, *others):
            if not getattr(self, name) >= 0:
                raise CeloError(f"{name} must not be negative, got {getattr(self, name)}")
        for name in ("resume_share", "expert_share"):
            if not 0 < getattr(self, name) <= 1:
                raise CeloError(f"{name} must be above 0 and at most 1, got {getattr(self, name)}")
        if self.resume_slots and self.estimator not in RESUMABLE:
            raise CeloError(
                f"resume_slots={self.resume_slots} needs an estimator that keeps the noise of an inner "
                f"training, {' or '.join(RESUMABLE)}, got {self.estimator!r}; set estimator or resume_slots=0"
            )
        if self.average_decay >= 1:
            raise CeloError(f"average_decay must be below 1, got {self.average_decay}")
        for name in ("horizon_power", "min_rms", "start_power"):
            if not math.isfinite(getattr(self, name)):
                raise CeloError(f"{name} must be finite, got {getattr(self, name)}")
        if self.horizon_max < max(self.horizon_min, self.truncation_length):
            raise CeloError(
                f"horizon_max must be at least horizon_min and truncation_length, got {self.horizon_max}"
            )

    def _check_optimizer(self) -> None:
        """That the optimizer is known and has the parts that other settings speak of."""
        if self.optimizer not in OPTIMIZERS:
            error = unknown_name("optimizer", self.optimizer, OPTIMIZERS)
            raise CeloError(
                f"{error}; one of your own is known once the module that registers it is imported"
            )
        entry = OPTIMIZERS[self.optimizer]
        for phase in entry.phases:
            if phase.name not in PHASES:
                raise unknown_name(f"phase of the optimizer {self.optimizer!r}", phase.name, PHASES)
        first = f"{entry.phases[0].name}_steps"
        if getattr(self, first) == 0:
            raise CeloError(f"{first} must be positive, got 0: later phases need what the first one trains")
        optimizer = entry.optimizer(kernel="xla")
        groups, optional = optimizer.theta_groups, optimizer.optional_theta
        has_rule, has_schedule = update_rule.GROUP in groups, schedule.GROUP in groups
        wanted = (
            ("rule_start", "normal", has_rule, "Celo's update rule"),
            ("orthogonalize", False, update_rule.MATRIX_STEP in optional, "Celo's update rule"),
            ("start_power", 0.0, self.orthogonalize, "orthogonalised steps"),
            ("min_rms", 0.0, update_rule.MIN_RMS in optional, "Celo's update rule"),
            ("rule_schedule", "constant", entry.phases[0].decayed, "a rule with a decayed form"),
            ("imitation_steps", 0, has_rule and has_schedule, "Celo's update rule and scheduler"),
        )
        lacking = [
            (f"{name}={getattr(self, name)!r} needs {part}", f"{name}={unset!r}")
            for name, unset, there, part in wanted
            if getattr(self, name) != unset and not there
        ]
        if lacking:
            reasons, remedies = zip(*lacking, strict=True)
            raise CeloError(
                f"the optimizer {self.optimizer!r} does not fit this recipe: {'; '.join(reasons)}. "
                f"Set {', '.join(remedies)}"
            )

    def families(self, phase: str) -> tuple[str, ...]:
        """Names of the families of tasks that a phase trains on."""
        return self.rule_tasks if phase == "rule" and self.rule_tasks else self.tasks


def _names(value: str | Sequence[str]) -> tuple[str, ...]:
    """Names of tasks; a text may hold several, with commas between them."""
    text = value if isinstance(value, str) else ",".join(value)
    return tuple(name.strip() for name in text.split(",") if name.strip())


# A rule of eight hidden units needs a good start, and evolution strategies find the shape of a schedule
# slowly: hence mirrored weights and imitation. One draw of noise for the whole life of a problem, clipped
# meta-gradients and high rates that fall along a cosine do the rest. An optimizer is judged by the loss that
# a training ends with: hence the objective (results/LOG.md).
_QUICK = Recipe(
    rule_start="mirrored",
    rule_schedule="linear",
    rule_steps=1_500,
    imitation_steps=200,
    scheduler_steps=500,
    pairs_per_task=4,
    estimator="nres",
    objective="log_loss",
    lateness=1.0,
    gradient_clip=1.0,
    rule_learning_rate=5e-3,
    scheduler_learning_rate=1e-3,
    learning_rate_end=1e-5,
    warmup_steps=100,
    average_decay=0.99,
)

RECIPES: dict[str, Recipe] = {
    "celo": Recipe(),  # the paper's
    "celo2": Recipe(optimizer="celo2", rule_learning_rate=5e-5, learning_rate_end=5e-5),  # the paper's
    # ELO's (arXiv 2607.06772), with our expert. There two of the image sets are in colour, and the expert,
    # Muon, fades from step 5,000 on.
    "elo-celo2": Recipe(
        optimizer="celo2",
        rule_learning_rate=1e-4,
        learning_rate_end=1e-5,
        warmup_steps=100,
        gradient_clip=1.0,
        horizon_power=0.0,
        resume_slots=1,
        expert_steps=50_000,
    ),
    # The shipped weights are of it, seed 2. A run with convolutions and autoencoders in phase 1, six times as
    # long, took smaller steps and ended behind on the probe (results/LOG.md).
    "laptop": dataclasses.replace(
        _QUICK,
        tasks=("celo_image_mlps", "small_deep_perceptrons", "small_autoencoders"),
        rule_tasks=("celo_image_mlps",),
        pairs_per_task=8,
        rule_steps=5_000,
        scheduler_steps=1_000,
        refinement_steps=1_000,
        finish_steps=500,
        orthogonalize=True,
        start_power=0.5,
        min_rms=0.01,
        refinement_learning_rate=2e-3,
        finish_learning_rate=1e-3,
        weight_decay=0.01,
        horizon_min=50,
        horizon_max=2_500,
        horizon_power=1.5,
    ),
    "quick": _QUICK,
    # The published settings of optimizers that are trained in one go (arXiv 2501.12670). The rate is given
    # there for RNN-MLP, as the example of them.
    **{
        name: Recipe(optimizer=optimizer, rule_learning_rate=1e-4, learning_rate_end=1e-4)
        for name, optimizer in {
            "rnn-mlp": "rnn_mlp",
            "adafac-mlp": "adafac_mlp",
            "nn-adam": "nn_adam",
            "velo-s": "velo_s",
        }.items()
    },
}
"""Recipes of meta-training by name; "celo" is the paper's."""


def make_recipe(name: str, **overrides) -> Recipe:
    """The recipe `name` with some fields replaced.

    >>> from celo import meta
    >>> recipe = meta.make_recipe("quick", seed=1, rule_steps=500)

    Raises:
      CeloError: for an unknown recipe or field, or a value out of range.
    """
    if name not in RECIPES:
        raise unknown_name("recipe", name, RECIPES)
    fields = {f.name for f in dataclasses.fields(Recipe)}
    for key in overrides:
        if key not in fields:
            raise unknown_name("recipe field", key, fields)
    return dataclasses.replace(RECIPES[name], **overrides)
