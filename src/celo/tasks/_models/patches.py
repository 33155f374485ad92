"""Patches of images, and convolution as their product with a matrix."""

from collections.abc import Sequence

import jax.numpy as jnp

from celo._types import Array


def split_patches(x: Array, size: int) -> Array:
    """Images [batch, height, width, channels] cut into squares: [batch, patches, size * size * channels]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // size, size, width // size, size, channels)
    return x.swapaxes(2, 3).reshape(batch, -1, size * size * channels)


def convolve(x: Array, kernel: Array, strides: Sequence[int], padding: str, **settings) -> Array:
    """Convolution with zeros around; what `flax.linen.Conv` takes for its `conv_general_dilated`.

    XLA's own is as fast alone, but on CPU the gradient of one in a loop, such as a scan over training
    steps, takes fifty times as long: XLA brings convolutions into a form it has fast code for outside of
    loops only.

    Args:
      x: [batch, height, width, inputs].
      kernel: [rows, columns, inputs, outputs].
      strides: of rows and columns.
      padding: "SAME", nothing else.
      settings: what else Flax says, which is of no consequence for layers that ask for none of it.
    """
    del settings
    assert padding == "SAME", padding
    rows, columns, _, outputs = kernel.shape
    places = [-(-size // stride) for size, stride in zip(x.shape[1:3], strides, strict=True)]
    ends = [(count - 1) * stride + 1 for count, stride in zip(places, strides, strict=True)]
    missing = [
        max(end - 1 + extent - size, 0)
        for end, extent, size in zip(ends, (rows, columns), x.shape[1:3], strict=True)
    ]
    x = jnp.pad(x, ((0, 0), *((m // 2, m - m // 2) for m in missing), (0, 0)))
    seen = [
        x[:, i : i + ends[0] : strides[0], j : j + ends[1] : strides[1]]
        for i in range(rows)
        for j in range(columns)
    ]
    return jnp.concatenate(seen, axis=-1) @ kernel.reshape(-1, outputs)
