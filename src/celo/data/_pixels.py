"""Exact arithmetic on images, the same on any machine: shrinking, greyscale, digits over photographs."""

from math import gcd

import numpy as np

LUMA = np.array([299, 587, 114], np.float64)
"""ITU-R BT.601 luma, in thousandths."""

CHUNK = 2000
"""Images converted at once: limits the float64 copies to some tens of MB."""


def area_weights(old: int, new: int) -> np.ndarray:
    """Overlap of each of `old` pixels with each of `new` boxes over the same length: float64 [new, old].

    The unit is 1 / lcm(old, new) of the length, which makes every overlap, also of 28 pixels and 8 boxes,
    a whole number; each row sums to old / gcd(old, new).
    """
    common = gcd(old, new)
    pixel, box = new // common, old // common
    pixel_start = pixel * np.arange(old)
    box_start = box * np.arange(new)[:, None]
    overlap = np.minimum(pixel_start + pixel, box_start + box) - np.maximum(pixel_start, box_start)
    return np.maximum(overlap, 0).astype(np.float64)


def resize_images(x: np.ndarray, size: int, *, grey: bool) -> np.ndarray:
    """Average each image over the boxes of a size x size grid and, if `grey`, weight its colours by luma.

    Sums of integers stay below 2**53 and are therefore exact in any order; one rounding, half up, at the end.

    Args:
      x: uint8 [N, H, W, C].
      size: pixels of the new height and width.
      grey: whether three channels become one; a single channel stays as it is.

    Returns:
      uint8 [N, size, size, C], or [N, size, size, 1] if grey.
    """
    _, height, width, channels = x.shape
    rows, columns = area_weights(height, size), area_weights(width, size)
    total = rows[0].sum() * columns[0].sum()
    to_grey = grey and channels > 1
    if to_grey:
        total *= LUMA.sum()
    out = np.empty((len(x), size, size, 1 if to_grey else channels), np.uint8)
    for start in range(0, len(x), CHUNK):
        part = x[start : start + CHUNK].astype(np.float64)
        if to_grey:
            part = (part @ LUMA)[..., None]
        part = np.moveaxis(part, 3, 1)
        boxes = rows @ part @ columns.T
        out[start : start + CHUNK] = np.moveaxis(np.floor(boxes / total + 0.5), 1, 3)
    return out


def digits_over_photographs(
    digits: dict[str, np.ndarray], photographs: dict[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Digits in front of a background, |photograph / 2 - digit|, similar to MNIST-M.

    Digit i is blended with the centre of grey photograph i (modulo their number). Digits and splits are those
    of MNIST, but the set is far harder to learn, as street numbers are.

    Args:
      digits: arrays of MNIST.
      photographs: arrays of CIFAR-10.

    Returns:
      train_x and test_x uint8 [N, 28, 28, 1]; train_y and test_y are the digits'.
    """
    made = {key: digits[key] for key in ("train_y", "test_y")}
    for key in ("train_x", "test_x"):
        ground = resize_images(photographs[key][:, 2:30, 2:30], 28, grey=True)
        ground = ground[np.arange(len(digits[key])) % len(ground)] // 2
        made[key] = np.abs(ground.astype(np.int16) - digits[key]).astype(np.uint8)
    return made
