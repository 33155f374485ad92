"""Patches of images, and convolution as a product of patches with a matrix; plain functions, without Flax."""

from collections.abc import Sequence

import jax.numpy as jnp

from celo._types import Array


def split_patches(x: Array, size: int) -> Array:
    """Images [batch, height, width, channels] cut into squares: [batch, patches, size * size * channels]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: str, **settings) -> Array:
    """Convolution with zero padding, for `flax.linen.Conv(…, conv_general_dilated=convolve)`.

    XLA's own convolution is as fast by itself, but on a CPU its gradient inside a loop, such as a scan over
    training steps, takes fifty times as long: XLA rewrites convolutions into a form with fast code only
    outside of loops.

    Args:
      x: [batch, height, width, inputs].
      kernel: [rows, columns, inputs, outputs].
      strides: of rows and columns.
      padding: "SAME", nothing else.
      settings: further arguments of Flax, ignored; they have no effect in layers with default settings.

    Returns:
      [batch, ceil(height / stride), ceil(width / stride), outputs].
    """
    del settings
    assert padding == "SAME", padding
    rows, columns, _, outputs = kernel.shape
    counts = [-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True)]
    ends = [(count - 1) * stride + 1 for count, stride in zip(counts, strides, strict=True)]
    missing = [
        max(end - 1 + extent - size, 0)
        for end, extent, size in zip(ends, (rows, columns), x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
    shifted = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(shifted, axis=-1) @ kernel.reshape(-1, outputs)
