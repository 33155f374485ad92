"""Weights for a transformation: read once, checked, with what their file says of how they were trained.

A run far outside of that is warned of, once. Batch sizes are out of sight: an optimizer sees gradients, not
how many examples they are means of.
"""

import dataclasses
import functools
import os
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax.core import Tracer

from celo import weights as weights_files
from celo._errors import CeloError, OutOfRangeWarning
from celo._types import Key, Params, Theta

WeightsLike = str | os.PathLike[str] | Mapping[str, Mapping[str, Any]]  # bundled name, path, or θ itself

# How far is far: below a third of the shortest horizon little is known, and at four times the longest Celo
# has ended 30 % above tuned Adam's loss (docs/loops.md).
SHORTER, LONGER = 3, 2
# Celo's authors report good runs of models 4,000 times as large as those of their meta-training, and unsteady
# ones from 10,000 times on; our own evaluation ends at 30 times.
LARGER = 10_000

_PACKAGE = str(Path(__file__).parents[1])
_SILENCE = "To silence this: warnings.simplefilter('ignore', celo.OutOfRangeWarning)"


class ReadsTheta(Protocol):
    """What weights are checked against: a `LearnedOptimizer`, or a part of one."""

    theta_groups: ClassVar[tuple[str, ...]]  # groups of θ that it reads
    optional_theta: ClassVar[Mapping[str, tuple[int, ...]]]  # weights that need not be there

    def init_theta(self, key: Key) -> Theta:
        """Fresh weights."""
        ...


@dataclasses.dataclass(frozen=True)
class BoundWeights:
    """θ of one optimizer, and the range it was meta-trained on; None where that is not known.

    Attributes:
      theta: the groups that the optimizer reads, as JAX arrays.
      source: what the weights are called, for messages.
      horizon_min: steps of the shortest inner training.
      horizon_max: steps of the longest.
      largest_model: parameters of the largest model.
    """

    theta: Theta
    source: str
    horizon_min: int | None = None
    horizon_max: int | None = None
    largest_model: int | None = None

    def check_horizon(self, num_steps: Any) -> None:
        """Warn of a horizon (an int, or a traced scalar, which passes) far outside the trained ones."""
        low, high = self.horizon_min, self.horizon_max
        if low is None or high is None or not isinstance(num_steps, int):
            return
        if low / SHORTER <= num_steps <= LONGER * high:
            return
        _warn_once(
            f"num_steps is {num_steps:,}, and {self.source} were meta-trained on {low:,} to {high:,} steps: "
            "this far outside, their schedule is a guess. Compare with a tuned optimizer before you rely on "
            f"it, or give the rule a schedule of yours, celo.celo_rule(schedule). {_SILENCE}"
        )

    def check_size(self, params: Params) -> None:
        """Warn of a model (arrays or their shapes) far larger than the trained ones."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        if self.largest_model is None or size <= LARGER * self.largest_model:
            return
        _warn_once(
            f"the model has {size:,} parameters, and {self.source} were meta-trained on models of up to "
            f"{self.largest_model:,}: this far outside, nothing is known of them. Compare with a tuned "
            f"optimizer before you rely on them. {_SILENCE}"
        )


def bind(weights: WeightsLike, optimizer: ReadsTheta) -> BoundWeights:
    """The weights that `optimizer` reads, from a bundled name, a file or θ itself.

    A file is read once. Groups of θ that the optimizer does not read are left out: Celo's weights serve its
    rule and its schedule alone, too.

    Raises:
      CeloError: if the file cannot be read, or a group is missing or does not fit.
    """
    if not isinstance(weights, str | os.PathLike | Mapping):
        raise CeloError(f"weights must be a bundled name, a path or θ itself, got {weights!r}")
    if isinstance(weights, Mapping):
        return BoundWeights(_checked(weights, optimizer, "weights="), "θ")
    loaded = weights_files.load(weights)
    facts = loaded.facts
    recipe = facts.get("recipe")
    horizons = recipe if isinstance(recipe, Mapping) else {}
    largest = facts.get("largest_model")
    return BoundWeights(
        theta=_checked(loaded.theta, optimizer, str(weights)),
        source=f"the weights {str(weights)!r}",
        horizon_min=horizons.get("horizon_min"),
        horizon_max=horizons.get("horizon_max"),
        largest_model=None if largest is None else int(largest),  # metadata is text
    )


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


@functools.cache  # once a process: `init` is often traced more than once
def _warn_once(message: str) -> None:
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, OutOfRangeWarning, stacklevel=level)  # points at the first line that is not ours
