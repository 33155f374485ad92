"""What weights were meta-trained on, and a warning, said once, where a run goes far beyond it.

Batch sizes are out of sight: an optimizer sees gradients, not what they are means of.
"""

import functools
import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax

from celo import weights as weights_files
from celo._errors import OutOfRangeWarning
from celo._types import Params
from celo.optimizers._bind import Weights

# How far is far: below a third of the shortest horizon little is known, and at four times the longest Celo
# has ended 30 % above tuned Adam's loss (docs/loops.md).
SHORTER, LONGER = 3, 2
# Celo's authors report good runs of models 4,000 times as large as those of their meta-training, and unsteady
# ones from 10,000 times on; our own evaluation ends at 30 times.
LARGER = 10_000

_SILENCE = "To silence this: warnings.simplefilter('ignore', celo.OutOfRangeWarning)"


class TrainedRange(NamedTuple):
    """What weights were meta-trained on; None where that is not known, of which nothing is said."""

    weights: str  # what they are called
    horizon_min: int | None = None  # steps
    horizon_max: int | None = None
    largest_model: int | None = None  # parameters

    def check_horizon(self, num_steps: Any) -> None:
        """Warn of a horizon (an int, or a traced scalar, which passes) far outside the trained ones."""
        low, high = self.horizon_min, self.horizon_max
        if low is None or high is None or not isinstance(num_steps, int):
            return
        if low / SHORTER <= num_steps <= LONGER * high:
            return
        _say(
            f"num_steps is {num_steps:,}, and {self.weights} were meta-trained on {low:,} to {high:,} steps: "
            "this far outside, their schedule is a guess. Compare with a tuned optimizer before you rely on "
            f"it, or give the rule a schedule of yours, celo.celo_rule(schedule). {_SILENCE}"
        )

    def check_size(self, params: Params) -> None:
        """Warn of a model (arrays or their shapes) far larger than the trained ones."""
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        if self.largest_model is None or size <= LARGER * self.largest_model:
            return
        _say(
            f"the model has {size:,} parameters, and {self.weights} were meta-trained on models of up to "
            f"{self.largest_model:,}: this far outside, nothing is known of them. Compare with a tuned "
            f"optimizer before you rely on them. {_SILENCE}"
        )


def trained_range(weights: Weights) -> TrainedRange:
    """What a file or bundled weights say of themselves; of θ given as arrays nothing is known."""
    if isinstance(weights, Mapping):
        return TrainedRange("θ")
    facts = weights_files.facts(weights)
    recipe = facts.get("recipe")
    horizons = recipe if isinstance(recipe, Mapping) else {}
    largest = facts.get("largest_model")
    return TrainedRange(
        f"the weights {str(weights)!r}",
        horizons.get("horizon_min"),
        horizons.get("horizon_max"),
        None if largest is None else int(largest),  # metadata is text
    )


@functools.cache  # once a process: `init` is often traced more than once
def _say(message: str) -> None:
    warnings.warn(message, OutOfRangeWarning, stacklevel=4)
