"""Data sets made of others."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from celo.data._formats import Arrays
from celo.data._providers import Report
from celo.data._resize import resize_images


@dataclass(frozen=True)
class Composed:
    """A set made of other registered sets."""

    parts: tuple[str, ...]
    make: Callable[..., Arrays]  # called with the arrays of each part

    @property
    def title(self) -> str:
        """What it is made of."""
        return f"made of {' and '.join(self.parts)}"

    def remedy(self, folder: Path) -> str:
        """How to get the parts."""
        return f"celo data fetch {' '.join(self.parts)}"

    def arrays(self, folder: Path, report: Report) -> Arrays:
        """Fetch the parts and make it."""
        from celo.data._load import fetch  # the parts are sets like any other, which load through here

        return self.make(*(dict(np.load(fetch(name, report=report))) for name in self.parts))


def digits_over_photographs(digits: Arrays, photographs: Arrays) -> Arrays:
    """Digits that must be found before a background: |photograph / 2 - digit|, much as MNIST-M is made.

    Digit i lies on the middle of grey photograph i, of as many as there are. The same digits and splits as in
    MNIST, but far harder to learn: what street numbers are to MNIST.

    Args:
      digits: arrays of MNIST.
      photographs: arrays of CIFAR-10.

    Returns:
      train_x and test_x uint8 [N, 28, 28, 1]; train_y and test_y as the digits have them.
    """
    made = {key: digits[key] for key in ("train_y", "test_y")}
    for key in ("train_x", "test_x"):
        ground = resize_images(photographs[key][:, 2:30, 2:30], 28, grey=True)
        ground = ground[np.arange(len(digits[key])) % len(ground)] // 2
        made[key] = np.abs(ground.astype(np.int16) - digits[key]).astype(np.uint8)
    return made
