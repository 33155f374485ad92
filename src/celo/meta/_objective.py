"""What meta-training minimizes: how the losses of an inner training are weighted against one another.

Celo (arXiv 2501.12670) minimizes the mean training loss over the life of a problem. Most of that mean is the
steep beginning, and most of its differences come from tasks whose losses are large. But an optimizer is
judged by the loss it ends with, relative to another's. So an objective has two settings: the logarithm of the
loss, in which equal ratios count equally, and a weight that grows with the fraction of the life passed.
"""

import dataclasses

import jax.numpy as jnp

from celo._errors import CeloError, unknown_name
from celo._types import Array

SCALES = ("loss", "log_loss")


@dataclasses.dataclass(frozen=True)
class Objective:
    """Cost of one inner step: weight(u) * scale(loss), u in (0, 1] the fraction of the life passed.

    Attributes:
      scale: "loss" as it is, or "log_loss": the logarithm of the loss above a floor of 1/256 of the
        family's cap (0.013 nats for ten classes), below which losses count as equal.
      lateness: p >= 0; the weight is (p + 1) u^p, whose mean over a life is 1. 0 weighs all steps equally.

    Raises:
      CeloError: for an unknown scale or a negative lateness.
    """

    scale: str = "loss"
    lateness: float = 0.0

    def __post_init__(self):
        if self.scale not in SCALES:
            raise unknown_name("objective", self.scale, SCALES)
        if not 0 <= self.lateness < float("inf"):
            raise CeloError(f"lateness must be a finite number >= 0, got {self.lateness}")

    def cost(self, loss: Array, passed: Array, loss_cap: float) -> Array:
        """The cost of a step with a finite `loss` in [0, loss_cap] at the fraction `passed` of a life."""
        if self.scale == "log_loss":
            loss = jnp.log(loss + loss_cap / 256.0)
        if self.lateness == 0:
            return loss
        return (self.lateness + 1.0) * jnp.power(passed, self.lateness) * loss
