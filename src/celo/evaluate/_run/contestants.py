"""Contestants: hand-made optimizers, tuned or at one learning rate, and learned ones, run as they are."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import numpy as np
import optax

from celo import weights
from celo._errors import CeloError, unknown_name
from celo._import_path import attribute_at, source_sha256
from celo._types import Theta
from celo.evaluate._run.baselines import ANSWERS, BASELINES, MakeBaseline, definition
from celo.evaluate._run.training import Answer
from celo.evaluate._settings import ContestantFacts
from celo.optimizers._bind import bind
from celo.optimizers._registry import OPTIMIZERS

ALL_BASELINES = "baselines"  # as a contestant's name: every one of them


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One optimizer, in a form that other processes and machines can be sent.

    Attributes:
      name: what tables call it.
      facts: what it is, for the record.
      optimizer: of a hand-made one, which of `BASELINES`, or "package.module:attribute" of your own; of a
        learned one its architecture, of `celo.optimizers.OPTIMIZERS`.
      theta: weights of a learned optimizer, NumPy arrays; None for a hand-made one.
    """

    name: str
    facts: ContestantFacts
    optimizer: str
    theta: Theta | None = None

    @property
    def tuned(self) -> bool:
        """Whether it has a learning rate to be tuned."""
        return self.facts.tuned

    @property
    def answer(self) -> Answer | None:
        """As `CurveProgram` takes it."""
        return ANSWERS.get(self.optimizer) if self.theta is None else None

    def transform(self, num_steps: int, kernel: str) -> Callable[[Any], optax.GradientTransformation]:
        """Learning rate -> transformation for `num_steps` steps; a learned one's updates are multiplied."""
        if self.theta is None:
            make = BASELINES.get(self.optimizer) or own_optimizer(self.optimizer)
            return lambda rate: make(rate, num_steps)
        bound = OPTIMIZERS[self.optimizer].transform
        return lambda rate: bound(num_steps, weights=self.theta, learning_rate=rate, kernel=kernel)


def own_optimizer(place: str) -> MakeBaseline:
    """What makes an optimizer of your own: (learning rate, number of steps) -> transformation.

    It is called with a traced learning rate, since all rates are one compiled program. Code that asks for
    its value, as some of optax's schedules do, belongs into a factor (`optax.scale_by_schedule`).

    Raises:
      CeloError: if there is nothing at `place`, or it is no function; what it returns raises one where the
        rate's value is asked for.
    """
    found = attribute_at(place, "optimizer")
    if not callable(found):
        raise CeloError(
            f"optimizer {place!r} is a {type(found).__name__}: name a function of a learning rate and a "
            "number of steps that returns an optax transformation"
        )

    def make(rate: Any, num_steps: int) -> optax.GradientTransformation:
        try:
            return cast(MakeBaseline, found)(rate, num_steps)
        except jax.errors.ConcretizationTypeError as error:
            raise CeloError(
                f"optimizer {place!r} asks for the value of its learning rate, which is traced; write a "
                "schedule as a factor: optax.chain(optax.adam(rate), optax.scale_by_schedule(factor))"
            ) from error

    return make


def resolve_contestant(text: str) -> Contestant:
    """A contestant by name: [NAME=] a baseline, bundled weights, a weights file or a place.

    A baseline or a place with "@RATE" behind it has that learning rate on every task.

    Raises:
      CeloError: if there is no such baseline, weights or place, the weights do not fit, or the rate is none.
    """
    name, given, path = text.rpartition("=")
    if "@" in path and not path.endswith(".safetensors"):
        return _at_one_rate(text)
    own = ":" in path and not path.endswith(".safetensors")
    named = path in BASELINES or path in weights.bundled()
    if not own and not named and "/" not in path and not path.endswith(".safetensors"):
        raise unknown_name("contestant", path, (*BASELINES, *weights.bundled(), ALL_BASELINES))
    name = name if given else path.rpartition(":" if own else "/")[2].removesuffix(".safetensors")
    if (name in BASELINES and name != path) or not name or "/" in name:
        raise CeloError(f"contestant {text!r}: {name!r} cannot be its name; write NAME={path}")
    if path in BASELINES:
        return Contestant(name, ContestantFacts(**definition(path)), path)
    if own:
        own_optimizer(path)  # a slip in the name shows at once
        facts = ContestantFacts(optimizer=path, source_sha256=source_sha256(path) or "none")
        return Contestant(name, facts, path)
    found = weights.load(path)
    architecture = found.metadata["architecture"]
    if architecture not in OPTIMIZERS:
        raise unknown_name("architecture", architecture, OPTIMIZERS)
    theta = bind(found.theta, OPTIMIZERS[architecture].optimizer(kernel="xla")).theta
    plain = jax.tree.map(np.asarray, theta)  # other processes and machines are sent it
    return Contestant(name, ContestantFacts(weights_sha256=found.sha256), architecture, plain)


def _at_one_rate(text: str) -> Contestant:
    """That of [NAME=]OPTIMIZER@RATE, called OPTIMIZER@RATE where it has no name."""
    named, _, number = text.rpartition("@")
    try:
        rate = float(number)
    except ValueError:
        rate = math.nan
    if not 0 < rate < math.inf:
        raise CeloError(f"contestant {text!r}: {number!r} is no learning rate; write one, as in adam@0.001")
    name, given, optimizer = named.rpartition("=")
    one = resolve_contestant(optimizer)
    if not one.tuned:
        raise CeloError(
            f"contestant {text!r}: {optimizer} has no learning rate to be fixed; leave @{number} out"
        )
    if (given and not name) or name in BASELINES or "/" in name:
        raise CeloError(f"contestant {text!r}: {name!r} cannot be its name; write NAME={optimizer}@{number}")
    facts = dataclasses.replace(one.facts, rate=rate)
    return dataclasses.replace(one, name=name or f"{one.name}@{rate:g}", facts=facts)


def resolve_contestants(names: Sequence[str | Contestant]) -> list[Contestant]:
    """Those named, each once, "baselines" standing for all of them; one that is resolved stays as it is.

    Raises:
      CeloError: as `resolve_contestant`; or two of one name differ.
    """
    found: dict[str, Contestant] = {}
    for given in names:
        for each in BASELINES if given == ALL_BASELINES else (given,):
            one = resolve_contestant(each) if isinstance(each, str) else each
            if one.name in found and found[one.name].facts != one.facts:
                raise CeloError(f"two contestants are called {one.name!r}: name one of them, NAME={given}")
            found[one.name] = one
    return list(found.values())
