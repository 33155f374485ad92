"""Gradient statistics shared by all learned rules: momenta, second moments, factored second moments.

Everything here is for one tensor. Statistics are float32 whatever the tensor's dtype.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo._definitions import FACTORED_FLOOR, GRADIENT_LIMIT, LARGEST_GRADIENT, factored_axes
from celo._layout import zeros_beside
from celo._types import Array

LONGEST_SUM = 1 << 14  # numbers added up one after another: of more, float32 loses the fifth digit


class TensorStats(NamedTuple):
    """Running statistics of one tensor of shape S; nothing is bias-corrected.

    `row` and `col` are the two factors of the second moment of Adafactor (Shazeer & Stern 2018), one
    for each decay: S with the largest axis, or the second largest, averaged away to size 1. A tensor
    with fewer than two axes keeps the whole second moment in `row`, and `col` is an unused scalar.
    """

    momenta: tuple[Array, ...]  # EMA(g), one for each momentum decay, shape S each
    second_moment: Array  # EMA(g²), shape S
    row: tuple[Array, ...]
    col: tuple[Array, ...]


def init_stats(param: Any, num_momenta: int, num_factored: int, layers: int = 0) -> TensorStats:
    """Zero statistics for a tensor of any shape and floating dtype, split and varying as it is.

    Args:
      param: an array, its shape or a number; its first `layers` axes count tensors.
      num_momenta: momenta.
      num_factored: factored second moments.
      layers: leading axes.
    """
    leading, shape = jnp.shape(param)[:layers], jnp.shape(param)[layers:]
    axes = factored_axes(shape)

    def zeros(shape: tuple[int, ...]) -> Array:
        return zeros_beside(param, (*leading, *shape))

    if axes is None:
        row_shape, col_shape = shape, ()
    else:
        row_shape = tuple(1 if axis == axes[0] else size for axis, size in enumerate(shape))
        col_shape = tuple(1 if axis == axes[1] else size for axis, size in enumerate(shape))
    return TensorStats(
        momenta=tuple(zeros(shape) for _ in range(num_momenta)),
        second_moment=zeros(shape),
        row=tuple(zeros(row_shape) for _ in range(num_factored)),
        col=tuple(zeros(col_shape) for _ in range(num_factored)),
    )


def update_stats(
    stats: TensorStats,
    grad: Array,
    *,
    momentum_decays: Sequence[float | Array],
    second_moment_decay: float | Array,
    factored_decays: Sequence[float | Array],
) -> TensorStats:
    """The statistics after seeing `grad`, float32 and of the tensor's shape."""
    square = grad * grad
    axes = factored_axes(grad.shape)
    floored = square + FACTORED_FLOOR
    if axes is None:
        row_now, col_now = floored, jnp.zeros((), jnp.float32)
    else:
        row_now = jnp.mean(floored, axis=axes[0], keepdims=True)
        col_now = jnp.mean(floored, axis=axes[1], keepdims=True)
    return TensorStats(
        momenta=tuple(ema(m, grad, d) for m, d in zip(stats.momenta, momentum_decays, strict=True)),
        second_moment=ema(stats.second_moment, square, second_moment_decay),
        row=tuple(ema(r, row_now, d) for r, d in zip(stats.row, factored_decays, strict=True)),
        col=tuple(ema(c, col_now, d) for c, d in zip(stats.col, factored_decays, strict=True)),
    )


def ema(average: Array, value: Array, decay: float | Array) -> Array:
    """One step of an exponential moving average."""
    return decay * average + (1.0 - decay) * value


def rms(x: Array, floor: float) -> Array:
    """sqrt(mean(x²) + floor) over the whole tensor; a scalar."""
    return jnp.sqrt(jnp.mean(jnp.square(x)) + floor)


def mean_squares(arrays: Sequence[Array], *, matrices_apart: bool) -> list[Array]:
    """The mean square of each array: a scalar, or, if matrices count apart, the array with its last two axes of
    size 1.

    Arrays of one shape are passed over together. XLA would make a loop for each, or several.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for k, x in enumerate(arrays):
        by_shape.setdefault(x.shape, []).append(k)
    means: dict[int, Array] = {}
    for shape, group in by_shape.items():
        apart = matrices_apart and len(shape) > 2
        axes = list(range(len(shape) - 2 if apart else 0, len(shape)))
        count = math.prod(shape[axis] for axis in axes)
        for k, total in zip(group, _sums([jnp.square(arrays[k]) for k in group], axes), strict=True):
            means[k] = (total[..., None, None] if apart else total) / count
    return [means[k] for k in range(len(arrays))]


def _sums(arrays: Sequence[Array], axes: list[int]) -> Sequence[Array]:
    """Sums of arrays of one shape over axes that are their last, by one loop where float32 allows."""
    shape = arrays[0].shape
    if math.prod(shape[axis] for axis in axes) <= LONGEST_SUM:
        return _by_one_loop(arrays, axes)
    if len(axes) > 1 and shape[-1] <= LONGEST_SUM:
        return _sums(_by_one_loop(arrays, axes[-1:]), axes[:-1])
    return [jnp.sum(x, axis=axes) for x in arrays]


def _by_one_loop(arrays: Sequence[Array], axes: list[int]) -> Sequence[Array]:
    def add(sums: Sequence[Array], numbers: Sequence[Array]) -> tuple[Array, ...]:
        return tuple(a + b for a, b in zip(sums, numbers, strict=True))

    return jax.lax.reduce(tuple(arrays), (np.float32(0),) * len(arrays), add, tuple(axes))


@jax.custom_jvp
def inverse_root(x: Array) -> Array:
    """1 / sqrt(x) of second moments that have no floor but `FACTORED_FLOOR`, with slopes that are finite.

    Where all gradients were zero the slope is beyond float32, and infinity times the zero by which such a
    second moment changes would be NaN: below 1e-24 it counts as zero.
    """
    return jax.lax.rsqrt(x)


@inverse_root.defjvp
def _inverse_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    slope = jnp.where(x > 1e-24, -0.5 * jax.lax.rsqrt(jnp.maximum(x, 1e-24)) ** 3, 0.0)
    return inverse_root(x), slope * tangent


def finite_gradient(grad: Array, limit: float | Array = GRADIENT_LIMIT) -> Array:
    """The gradient as float32, clipped to ±limit, with NaN taken as zero so that it cannot enter a state."""
    grad = grad.astype(jnp.float32)
    return jnp.clip(jnp.where(jnp.isnan(grad), 0.0, grad), -limit, limit)


def unclipped_gradient(grad: Array) -> Array:
    """As `finite_gradient` for rules that clip no gradient: what is finite stays, up to 1e15.

    An infinity counts as ±1000, as elsewhere: 1e15 would rule the statistics for ten thousands of steps.
    """
    grad = grad.astype(jnp.float32)
    known = jnp.where(jnp.isfinite(grad), grad, finite_gradient(grad))
    return jnp.clip(known, -LARGEST_GRADIENT, LARGEST_GRADIENT)


def mean_and_variance(arrays: Sequence[Array]) -> tuple[Array, Array]:
    """Mean of all elements of arrays of one shape, and the mean square of their distance from it; scalars."""
    mean = jnp.mean(jnp.stack([jnp.mean(x) for x in arrays]))
    return mean, jnp.mean(jnp.stack([jnp.mean(jnp.square(x - mean)) for x in arrays]))


def log_size(x: Array) -> Array:
    """Natural logarithm of |x| + 1e-8, between -5 and 5: numbers of any size as an input of an LSTM."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5.0, 5.0)


def inverse_factors(row: Array, col: Array, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Adafactor's preconditioner 1/sqrt(second moment) of a tensor with two or more axes, in two factors.

    Args:
      row: second moment averaged over the largest axis, as in `TensorStats`.
      col: second moment averaged over the second largest axis.
      shape: the tensor's shape.

    Returns:
      (row factor, column factor); both broadcast to `shape`.
    """
    axes = factored_axes(shape)
    assert axes is not None, f"a tensor of shape {shape} has no factored second moment"
    row_share = row / (jnp.mean(row, axis=axes[1], keepdims=True) + 1e-9)
    return jax.lax.rsqrt(jnp.maximum(row_share, 1e-9)), jax.lax.rsqrt(jnp.maximum(col, 1e-9))
