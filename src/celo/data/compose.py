"""Data sets made of others."""

import numpy as np

from celo.data.formats import Arrays
from celo.data.resize import resize_images


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
