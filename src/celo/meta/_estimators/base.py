"""What a meta-gradient estimator sees (an unrolled problem) and what it gives (a gradient of θ)."""

import abc
import math
from typing import Any, NamedTuple, Protocol

from celo._types import Array, Key, Theta


class Trajectory(NamedTuple):
    """What happened in `length` steps of one problem."""

    losses: Array  # [length] float32, finite: clipped, and the cap where the loss was not finite
    costs: Array  # [length] float32, finite: what the meta-gradient lowers
    nonfinite: Array  # [length] bool: where the loss was not finite
    ended: Array  # [length] bool: the problem reached its horizon with this step; a new one follows


class UnrolledProblem(Protocol):
    """An endless series of inner problems, advanced some steps at a time. Pure and vmappable."""

    def init(self, theta: Theta, key: Key, index: Array) -> Any:
        """A problem at a random point of its life.

        Args:
          theta: weights under which the problem has been brought there.
          key: decides everything random.
          index: int32 scalar, the particle's number; particles of one number see the same kind of task.
        """
        ...

    def start(self, theta: Theta, key: Key, index: Array, key_horizon: Key) -> Any:
        """A problem at the beginning of its life; equal `key_horizon` means equal horizons."""
        ...

    def run(self, theta: Theta, state: Any, key: Key, length: int) -> tuple[Any, Trajectory]:
        """Goes `length` steps on. Equal keys mean equal data and, after an end, equal new problems."""
        ...

    def prolong(self, state: Any, key: Key) -> Any:
        """A problem that has ended, with as many steps before it as a new one has; for `Resuming` alone."""
        ...


class Estimate(NamedTuple):
    """One estimate of the meta-gradient."""

    meta_loss: Array  # scalar, mean cost over particles and sides: what is lowered
    gradient: Theta  # mean over particles, always finite
    particle_losses: Array  # [particles], mean losses, for reports
    nonfinite: Array  # scalar, the fraction of inner steps whose loss was not finite
    inner_steps: Array  # float32 scalar, its cost: inner steps taken by both sides of all particles
    # Scalar, mean over particles of the squared norm of each one's own estimate; NaN where it is not known.
    pair_square: Array | float = math.nan


class GradientEstimator(abc.ABC):
    """Estimates the gradient of the meta-loss with respect to θ from unrolled problems.

    The particles of a state may be split over devices: `estimate` works on the particles it is given,
    and estimates of equal parts may be averaged. Randomness depends on particle numbers, not on places.
    """

    @abc.abstractmethod
    def init(self, theta: Theta, key: Key, index: Array) -> Any:
        """State of the particles numbered `index` [particles].

        A named tuple whose every leaf has the particle axis first, and whose field `number` is `index`: by it
        losses are told apart by the kind of their task.
        """

    @abc.abstractmethod
    def estimate(self, theta: Theta, state: Any, key: Key) -> tuple[Estimate, Any]:
        """One estimate, and the state after it."""
