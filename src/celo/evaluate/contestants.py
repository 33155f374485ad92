"""Who is evaluated: hand-made optimizers, tuned over learning rates, and learned ones, run as they are."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from celo import weights
from celo.errors import CeloError, unknown_name
from celo.evaluate.baselines import ANSWERS, BASELINES
from celo.evaluate.curve import Answer
from celo.optimizers.binding import load_theta
from celo.optimizers.celo import Celo, celo
from celo.optimizers.celo_adam import CeloAdam, celo_adam
from celo.types import Theta

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
      theta: weights of a learned optimizer; None for a baseline.
      facts: where the weights come from, for the record.
      architecture: of a learned optimizer, one of `LEARNED`.
    """

    name: str
    theta: Theta | None = None
    facts: dict[str, str] = dataclasses.field(default_factory=dict)
    architecture: str = "celo"

    @property
    def tuned(self) -> bool:
        """Whether it has a learning rate to be tuned."""
        return self.theta is None

    @property
    def answer(self) -> Answer | None:
        """As `CurveProgram` takes it."""
        return ANSWERS.get(self.name)

    def transform(self, horizon: int, kernel: str) -> Callable[[Any], optax.GradientTransformation]:
        """Learning rate -> transformation for `horizon` steps; a learned one is multiplied by it."""
        if self.theta is None:
            return lambda rate: BASELINES[self.name](rate, horizon)
        _, make = LEARNED[self.architecture]
        return lambda rate: make(self.theta, horizon, rate, kernel)


def contestant(text: str) -> Contestant:
    """A contestant as the command line names it: a baseline, bundled weights, a file, or NAME=file.

    Raises:
      CeloError: if there is no such baseline or weights, or the weights do not fit.
    """
    name, given, path = text.rpartition("=")
    if text in BASELINES:
        return Contestant(text)
    if not given and text not in weights.bundled() and not text.endswith(".safetensors"):
        raise unknown_name("contestant", text, (*BASELINES, *weights.bundled(), ALL_BASELINES))
    found = weights.load(path)
    name = name if given else path.rpartition("/")[2].removesuffix(".safetensors")
    if name in BASELINES or not name or "/" in name:
        raise CeloError(f"contestant {text!r}: {name!r} cannot be its name; write NAME={path}")
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
