"""Who is evaluated: hand-made optimizers, tuned over learning rates, and learned ones, run as they are."""

import dataclasses
from collections.abc import Callable
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
from celo.optimizers._bind import load_theta
from celo.optimizers._celo import Celo, celo
from celo.optimizers._celo_adam import CeloAdam, celo_adam

ALL_BASELINES = "baselines"  # on the command line: every one of them

# Architecture, as weights files name it -> the groups of θ it reads, (θ, horizon, rate, kernel) -> optimizer.
LEARNED: dict[str, tuple[tuple[str, ...], Callable[..., optax.GradientTransformation]]] = {
    "celo": (
        Celo.theta_groups,
        lambda theta, horizon, rate, kernel: celo(horizon, weights=theta, learning_rate=rate, kernel=kernel),
    ),
    "celo_adam": (
        CeloAdam.theta_groups,
        lambda theta, horizon, rate, kernel: celo_adam(horizon, weights=theta, learning_rate=rate),
    ),
}


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One optimizer, in a form that other processes and machines can be sent.

    Attributes:
      name: what tables call it.
      theta: weights of a learned optimizer; None for one whose learning rate is tuned.
      facts: what it is, for the record: where weights come from, or an optimizer's settings.
      architecture: of a learned optimizer, one of `LEARNED`.
      optimizer: of one that is tuned, which of `BASELINES`, or "package.module:attribute" of one's own.
    """

    name: str
    theta: Theta | None = None
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    architecture: str = "celo"
    optimizer: str | None = None

    @property
    def tuned(self) -> bool:
        """Whether it has a learning rate to be tuned."""
        return self.optimizer is not None

    @property
    def answer(self) -> Answer | None:
        """As `CurveProgram` takes it."""
        return ANSWERS.get(self.optimizer or "")

    def transform(self, horizon: int, kernel: str) -> Callable[[Any], optax.GradientTransformation]:
        """Learning rate -> transformation for `horizon` steps; a learned one is multiplied by it."""
        if self.optimizer is not None:
            make_tuned = BASELINES.get(self.optimizer) or own_optimizer(self.optimizer)
            return lambda rate: make_tuned(rate, horizon)
        _, make = LEARNED[self.architecture]
        return lambda rate: make(self.theta, horizon, rate, kernel)


def own_optimizer(place: str) -> MakeBaseline:
    """What makes an optimizer of one's own: (learning rate, number of steps) -> transformation.

    It is called with a traced learning rate, all rates being one compiled program: what asks for its value,
    as some of optax's schedules do of their peak, belongs into a factor (`optax.scale_by_schedule`).

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


def contestant(text: str) -> Contestant:
    """A contestant as the command line names it: [NAME=] a baseline, bundled weights, file or place.

    Raises:
      CeloError: if there is no such baseline, weights or place, or the weights do not fit.
    """
    name, given, path = text.rpartition("=")
    own = ":" in path and not path.endswith(".safetensors")
    named = path in BASELINES or path in weights.bundled()
    if not own and not named and "/" not in path and not path.endswith(".safetensors"):
        raise unknown_name("contestant", path, (*BASELINES, *weights.bundled(), ALL_BASELINES))
    name = name if given else path.rpartition(":" if own else "/")[2].removesuffix(".safetensors")
    if (name in BASELINES and name != path) or not name or "/" in name:
        raise CeloError(f"contestant {text!r}: {name!r} cannot be its name; write NAME={path}")
    if path in BASELINES:
        return Contestant(name, facts=definition(path), optimizer=path)
    if own:
        own_optimizer(path)  # a slip in the name shows at once
        facts = {"optimizer": path, "source_sha256": source_sha256(path) or "none"}
        return Contestant(name, facts=facts, optimizer=path)
    found = weights.load(path)
    architecture = found.metadata["architecture"]
    if architecture not in LEARNED:
        raise unknown_name("architecture", architecture, LEARNED)
    theta = load_theta(found.theta, LEARNED[architecture][0])
    plain = jax.tree.map(np.asarray, theta)  # other processes and machines are sent it
    return Contestant(name, plain, {"weights_sha256": found.sha256}, architecture)


def contestants(texts: list[str]) -> list[Contestant]:
    """Those named, each once, `baselines` standing for all of them.

    Raises:
      CeloError: as `contestant`; or two of one name have different weights.
    """
    found: dict[str, Contestant] = {}
    for text in texts:
        for each in BASELINES if text == ALL_BASELINES else (text,):
            one = contestant(each)
            if one.name in found and found[one.name].facts != one.facts:
                raise CeloError(f"two contestants are called {one.name!r}: name one of them, NAME={text}")
            found[one.name] = one
    return list(found.values())
