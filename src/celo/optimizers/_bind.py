"""Weights for a transformation: read once, checked, with what their file says of how they were trained."""

import dataclasses
import math
import os
from collections.abc import Mapping
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

from celo import weights as weights_files
from celo._errors import CeloError
from celo._limits import TrainedRange
from celo._types import Key, Params, Theta

WeightsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, path, or θ itself


class ReadsTheta(Protocol):
    """What weights are checked against: a `LearnedOptimizer`, or a part of one."""

    theta_groups: ClassVar[tuple[str, ...]]  # groups of θ that it reads
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]]  # weights that need not be there

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights."""
        ...


@dataclasses.dataclass(frozen=True)
class BoundWeights:
    """θ of one optimizer, and the range it was meta-trained on.

    Attributes:
      theta: the groups that the optimizer reads, as JAX arrays.
      trained: what is known of its meta-training.
    """

    theta: Theta
    trained: TrainedRange

    def check_horizon(self, num_steps: Any) -> None:
        """Warn of a horizon (an int, or a traced scalar, which passes) far outside the trained ones."""
        if isinstance(num_steps, int):
            self.trained.check_horizon(num_steps, "celo.celo_rule(schedule)")

    def check_size(self, params: Params) -> None:
        """Warn of a model (arrays or their shapes) far larger than the trained ones."""
        self.trained.check_size(sum(math.prod(jnp.shape(leaf)) for leaf in jax.tree.leaves(params)))


@dataclasses.dataclass(frozen=True)
class ReadWeights:
    """Weights as they were read, not yet checked against an optimizer.

    Attributes:
      theta: all groups.
      trained: what is known of its meta-training.
      source: where it comes from, for messages.
      architecture: the name in its file; None for θ itself.
    """

    theta: Mapping[str, Any]
    trained: TrainedRange
    source: str
    architecture: str | None

    def bind(self, optimizer: ReadsTheta) -> BoundWeights:
        """The groups that `optimizer` reads, or CeloError if one is missing or does not fit."""
        return BoundWeights(_checked(self.theta, optimizer, self.source), self.trained)


def read(weights: WeightsLike) -> ReadWeights:
    """Weights from a bundled name, a file or θ itself. A file is read once.

    Raises:
      CeloError: if the file cannot be read.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        return ReadWeights(weights, TrainedRange("θ"), "weights=", None)
    loaded, source = weights_files.load(weights), str(weights)
    trained = TrainedRange.of(loaded, source)
    return ReadWeights(loaded.theta, trained, source, loaded.metadata["architecture"])


def bind(weights: WeightsLike, optimizer: ReadsTheta) -> BoundWeights:
    """The weights that `optimizer` reads, from a bundled name, a file or θ itself.

    Groups of θ that the optimizer does not read are left out: Celo's weights serve its rule and its schedule
    alone, too.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or does not fit.
    """
    return read(weights).bind(optimizer)


def expected_shapes(optimizer: ReadsTheta) -> dict[str, tuple[int, ...]]:
    """Flat name -> shape of every weight that the optimizer must have."""
    fresh = jax.eval_shape(optimizer.init_theta, jax.random.key(0))
    return {
        f"{group}/{name}": tuple(leaf.shape)
        for group in optimizer.theta_groups
        for name, leaf in fresh[group].items()
    }


def _checked(theta: Mapping[str, Any], optimizer: ReadsTheta, source: str) -> Theta:
    """The optimizer's groups of θ as JAX arrays; CeloError if they do not fit."""
    groups = {
        group: dict(theta[group]) if isinstance(theta[group], Mapping) else theta[group]
        for group in optimizer.theta_groups
        if group in theta
    }
    if not any(isinstance(x, Tracer) for x in jax.tree.leaves(groups)):
        flat = weights_files.flatten(groups)
        optional = {name: shape for name, shape in optimizer.optional_theta.items() if name in flat}
        weights_files.check_theta(groups, expected_shapes(optimizer) | optional, source=source)
    return jax.tree.map(jnp.asarray, groups)
