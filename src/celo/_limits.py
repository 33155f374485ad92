"""What a run may be: numbers of steps and rates, and the range on which weights were meta-trained.

A run far outside of that range is warned of, once. Batch sizes are out of sight: an optimizer sees
gradients, not how many examples they are means of.
"""

import dataclasses
import functools
import math
import numbers
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from celo._errors import CeloError, OutOfRangeWarning
from celo.weights import Weights

MOST_STEPS = 2**31 - 1  # steps are counted in int32

# How far is far: below a third of the shortest horizon little is known, and at four times the longest Celo
# has ended 30 % above tuned Adam's loss (docs/loops.md).
SHORTER, LONGER = 3, 2
# Celo's authors report good runs of models 4,000 times as large as those of their meta-training, and unsteady
# ones from 10,000 times on; our own evaluation ends at 30 times.
LARGER = 10_000

# How far a learning rate, which multiplies learned steps, may be from 1 before it is warned of.
SMALL_RATE, LARGE_RATE = 0.05, 20.0

_PACKAGE = str(Path(__file__).parent)
_SILENCE = "To silence this: warnings.simplefilter('ignore', celo.OutOfRangeWarning)"


def check_steps(num_steps: Any, name: str = "num_steps", what: str = "steps that training will take") -> int:
    """`num_steps` as an int.

    Raises:
      CeloError: if it is not a positive whole number, or too large to be counted.
    """
    if isinstance(num_steps, bool) or not isinstance(num_steps, numbers.Integral) or num_steps < 1:
        raise CeloError(
            f"{name} must be a positive whole number, got {num_steps!r}; pass the number of {what}"
        )
    steps = int(num_steps)
    if steps > MOST_STEPS:
        raise CeloError(f"{name} must be at most {MOST_STEPS:,} (steps are counted in int32), got {steps}")
    return steps


def check_rate(rate: float, name: str, trained: float | None = 1.0) -> None:
    """Refuses a learning rate below 0; warns of one far from `trained` (it may be Adam's), if that is given.

    Raises:
      CeloError: if it is negative or not finite.
    """
    if not (math.isfinite(rate) and rate >= 0):
        raise CeloError(
            f"{name} must be finite and at least 0, got {rate!r}; learned steps point downhill. To climb, "
            "negate gradients and loss"
        )
    if trained is not None and rate > 0 and not SMALL_RATE <= rate / trained <= LARGE_RATE:
        _warn_once(
            f"{name} is {rate:g}, and multiplies learned steps, which are a hundredth of a tensor's size by "
            f"themselves: {trained:g} is what the weights were trained for, and needs no tuning. {_SILENCE}"
        )


def check_plateau(share: Any) -> None:
    """CeloError for a plateau that is no share of the horizon."""
    if not (isinstance(share, int | float) and 0 < share < 1):
        raise CeloError(
            f"plateau must be a share of the horizon, between 0 and 1, got {share!r}; for example 0.5"
        )


@dataclasses.dataclass(frozen=True)
class TrainedRange:
    """The runs that weights were meta-trained on; None where that is not known.

    Attributes:
      source: what the weights are called, for messages.
      horizon_min: steps of the shortest inner training.
      horizon_max: steps of the longest.
      largest_model: parameters of the largest model.
    """

    source: str
    horizon_min: int | None = None
    horizon_max: int | None = None
    largest_model: int | None = None

    @classmethod
    def of(cls, weights: Weights, name: str) -> "TrainedRange":
        """What a weights file says of itself."""
        facts = weights.facts
        recipe = facts.get("recipe")
        horizons = recipe if isinstance(recipe, Mapping) else {}
        largest = facts.get("largest_model")
        return cls(
            source=f"the weights {name!r}",
            horizon_min=horizons.get("horizon_min"),
            horizon_max=horizons.get("horizon_max"),
            largest_model=None if largest is None else int(largest),  # metadata is text
        )

    def check_horizon(self, num_steps: int, remedy: str) -> None:
        """Warn of a horizon far outside the trained ones; `remedy` is a rule without a learned schedule."""
        low, high = self.horizon_min, self.horizon_max
        if low is None or high is None or low / SHORTER <= num_steps <= LONGER * high:
            return
        _warn_once(
            f"num_steps is {num_steps:,}, and {self.source} were meta-trained on {low:,} to {high:,} steps: "
            "this far outside, their schedule is a guess. Compare with a tuned optimizer before you rely on "
            f"it, or give the rule a schedule of yours, {remedy}. {_SILENCE}"
        )

    def check_size(self, parameters: int) -> None:
        """Warn of a model with far more parameters than the trained ones."""
        if self.largest_model is None or parameters <= LARGER * self.largest_model:
            return
        _warn_once(
            f"the model has {parameters:,} parameters, and {self.source} were meta-trained on models of up "
            f"to {self.largest_model:,}: this far outside, nothing is known of them. Compare with a tuned "
            f"optimizer before you rely on them. {_SILENCE}"
        )


@functools.cache  # once a process: a program is often traced more than once
def _warn_once(message: str) -> None:
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, OutOfRangeWarning, stacklevel=level)  # points at the first line that is not ours
