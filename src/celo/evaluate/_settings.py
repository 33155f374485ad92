"""How a record was made, in types: task, protocol, contestant, kernel, and where it ran.

`differences` is the one place that knows which settings two records must share to be compared.
"""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Any, NamedTuple

from celo._errors import CeloError

ADAM = "adam"  # whose step is timed beside everyone's, and whose time everyone is given once
PAPER_RATES = (  # the 15 that Celo's paper (arXiv 2501.12670) tunes Adam over
    *(float(f"{digit}e{exponent}") for exponent in range(-7, 0) for digit in (1, 3)),
    1.0,
)
# A race: one small task, few steps, a small grid (`race_protocol`).
RACE_TASK, RACE_NUM_STEPS, RACE_NUM_EVALUATIONS = "digits_autoencoder", 300, 100
RACE_RATES = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1)


@dataclasses.dataclass(frozen=True)
class TaskSettings:
    """A task and how long it is trained.

    Attributes:
      name: what `celo.tasks.make_task` takes.
      num_steps: training steps of a run.
      eval_every: steps between evaluations; 20 of 2,000 make a hundred points. At Celo's 10, evaluation
        would cost a third of the training.
      stands_for: the published name of a task of Celo's paper; a label, no setting.
      source_sha256: of the file that defines a task of your own; None for the package's.
    """

    name: str
    num_steps: int = 2000
    eval_every: int = 20
    stands_for: str = dataclasses.field(default="", compare=False)
    source_sha256: str | None = None


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What every contestant of an evaluation is given.

    Attributes:
      rates: the grid of learning rates.
      first_share: share of the steps that all of the grid runs; with 1 the grid runs to the end, and there
        is no second rung.
      keep: how many rates of the first rung run to the end in the second.
      tuning_seeds: seeds that rates are chosen on, apart from `seeds`.
      seeds: seeds that are reported.

    Raises:
      CeloError: for a share outside (0, 1], no rate or seed, a rate that is not positive, or seeds that are
        both.
    """

    rates: tuple[float, ...] = PAPER_RATES
    first_share: float = 0.15
    keep: int = 3
    tuning_seeds: tuple[int, ...] = (1000,)
    seeds: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self):
        if not 0 < self.first_share <= 1:
            raise CeloError(f"first_share must be in (0, 1], got {self.first_share}")
        for name in ("rates", "tuning_seeds", "seeds"):
            if not getattr(self, name):
                raise CeloError(f"{name} is empty: name at least one")
        for rate in self.rates:
            if not 0 < rate < float("inf"):
                raise CeloError(f"rates must be positive numbers, got {rate!r}; try 1e-3")
        if self.keep < 1:
            raise CeloError(f"keep must be at least 1, got {self.keep}")
        if both := set(self.seeds) & set(self.tuning_seeds):
            raise CeloError(f"seeds {sorted(both)} are both for tuning and for reporting; keep them apart")


def race_protocol(num_seeds: int = 3) -> Protocol:
    """That of `celo race`: seven rates, all run to the end on as many other seeds as are reported.

    Raises:
      CeloError: if there is not at least one seed.
    """
    if num_seeds < 1:
        raise CeloError(f"num_seeds must be at least 1, got {num_seeds}")
    tuning_seeds = tuple(range(1000, 1000 + num_seeds))
    return Protocol(RACE_RATES, first_share=1.0, tuning_seeds=tuning_seeds, seeds=tuple(range(num_seeds)))


class Kind(enum.StrEnum):
    """What a contestant was given."""

    LEARNED = "learned"  # weights, and nothing else
    ONE_SETTING = "one setting"  # one learning rate for all tasks
    TUNED = "tuned"  # a learning rate for each task


@dataclasses.dataclass(frozen=True)
class ContestantFacts:
    """What a contestant is, whatever it is called. Of a learned optimizer only `weights_sha256` is set.

    Attributes:
      optimizer: optax's function, or "package.module:attribute" of your own.
      settings: of optax's function, all of them.
      schedule: in words.
      rate: the learning rate on every task; None for a learned optimizer, and for one that is tuned.
      source_sha256: of the file that defines an optimizer of your own.
      weights_sha256: of the weights file of a learned optimizer.
    """

    optimizer: str | None = None
    settings: str | None = None
    schedule: str | None = None
    rate: float | None = None
    source_sha256: str | None = None
    weights_sha256: str | None = None

    @property
    def kind(self) -> Kind:
        """What it was given."""
        if self.weights_sha256 is not None:
            return Kind.LEARNED
        return Kind.TUNED if self.rate is None else Kind.ONE_SETTING

    @property
    def tuned(self) -> bool:
        """Whether it has a learning rate that is tuned."""
        return self.kind == Kind.TUNED


@dataclasses.dataclass(frozen=True)
class Settings:
    """All that decides what a record holds, but for chance.

    Attributes:
      kernel: "native" or "xla", of a learned optimizer; None for all others.
    """

    task: TaskSettings
    protocol: Protocol
    contestant: ContestantFacts
    kernel: str | None


@dataclasses.dataclass(frozen=True)
class Provenance:
    """Where and when a record was made.

    Attributes:
      date: ISO 8601, UTC.
      commit: of the library's source; None outside of a checkout.
      environment: versions and machine, as `celo._provenance.environment` tells them.
      commits_of_trials: one for each trial; those before the last are missing in records older than this.
    """

    date: str | None = None
    commit: str | None = None
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    commits_of_trials: tuple[str | None, ...] = ()


class Difference(NamedTuple):
    """A setting in which two records differ."""

    name: str
    first: Any
    second: Any


def comparable(a: Settings, b: Settings) -> bool:
    """Whether two contestants' records on a task may stand beside each other."""
    return not differences(a, b)


def differences(a: Settings, b: Settings) -> list[Difference]:
    """Why two records may not stand beside each other; empty if they may.

    They must share the task, its steps and evaluations, and the seeds; and, if both were tuned, the rule of
    tuning. The kernel is an implementation, not a setting.
    """
    found = _unequal(a.task, b.task, ("name", "num_steps", "eval_every", "source_sha256"))
    found += _unequal(a.protocol, b.protocol, ("seeds",))
    if a.contestant.tuned and b.contestant.tuned:
        found += _unequal(a.protocol, b.protocol, _tuning_of(a.protocol, b.protocol))
    return found


def same_run(a: Settings, b: Settings) -> list[Difference]:
    """What keeps one record from taking the place of the other; empty if nothing does."""
    facts = tuple(field.name for field in dataclasses.fields(ContestantFacts))
    return differences(a, b) + _unequal(a.contestant, b.contestant, facts)


def _tuning_of(a: Protocol, b: Protocol) -> tuple[str, ...]:
    """The fields of a rule of tuning; what a second rung keeps is none of them where there is none."""
    one_rung = a.first_share == b.first_share == 1
    return ("rates", "first_share", *(() if one_rung else ("keep",)), "tuning_seeds")


def _unequal(a: Any, b: Any, names: tuple[str, ...]) -> list[Difference]:
    pairs = [Difference(name, getattr(a, name), getattr(b, name)) for name in names]
    return [pair for pair in pairs if pair.first != pair.second]


def as_json(settings: Settings, provenance: Provenance) -> dict[str, Any]:
    """Both as one JSON object, as record files hold it; what is not known is left out."""

    def known(value: Any) -> dict[str, Any]:
        return {name: item for name, item in dataclasses.asdict(value).items() if item is not None}

    origin = dataclasses.asdict(provenance)
    commits = list(origin.pop("commits_of_trials"))
    origin |= origin.pop("environment")
    return {
        "task": known(settings.task),
        "protocol": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in known(settings.protocol).items()
        },
        "contestant": known(settings.contestant),
        "kernel": settings.kernel,
        **origin,
        **({"commits_of_trials": commits} if commits else {}),
    }


def from_json(config: Mapping[str, Any]) -> tuple[Settings, Provenance]:
    """What `as_json` was given; a KeyError or TypeError if it was given nothing of the kind."""
    rest = dict(config)
    task, protocol, facts = (rest.pop(name) for name in ("task", "protocol", "contestant"))
    tuples: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in protocol.items()
    }
    settings = Settings(
        TaskSettings(**task), Protocol(**tuples), ContestantFacts(**facts), rest.pop("kernel", None)
    )
    provenance = Provenance(
        rest.pop("date", None),
        rest.pop("commit", None),
        commits_of_trials=tuple(rest.pop("commits_of_trials", ())),
        environment=rest,
    )
    return settings, provenance
