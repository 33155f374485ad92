"""Celo's update rule in PyTorch: `celo._kernels.rule_network` has the mathematics.

Tensors of one shape are computed together. Inputs as large as the tensor lie in one buffer, so that the first
layer is one product of matrices; those that vary along one axis are contracted with the weights before they
are broadcast. A large tensor is worked on a slice at a time, twice over: once for the root mean squares of
its inputs, once for the step.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from celo._definitions import (
    CLIPPED_GRADIENT,
    FACTORED_DECAYS,
    FACTORED_FLOOR,
    FIRST_ROW,
    GRADIENT_LIMIT,
    INPUT_FLOOR,
    INPUTS,
    MAGNITUDE_SCALE,
    MOMENTUM_DECAYS,
    RMS_FLOOR,
    SECOND_MOMENT_DECAY,
    STEP_SCALE,
    factored_axes,
)

Theta = dict[str, Tensor]

# Elements worked on at once: what a CPU's cache holds with all inputs of each, and what keeps a GPU busy.
CPU_SLICE, GPU_SLICE = 1 << 16, 1 << 24

_ALONG_ROW, _ALONG_COL = ("row", "inverse_row"), ("col", "inverse_col")  # inputs that vary along one axis
_WHOLE = tuple(name for name in INPUTS if name not in _ALONG_ROW + _ALONG_COL)


class Statistics(NamedTuple):
    """Statistics of n tensors of one shape S (one axis at least), float32; the leading 3 counts decays."""

    momenta: Tensor  # [3, n, *S]
    second_moment: Tensor  # [n, *S]
    row: Tensor  # [3, n, *S] with the largest axis of size 1; with fewer than two axes whole
    col: Tensor  # [3, n, *S] with the second largest axis of size 1; with fewer than two axes [3, n, 0]


class _Slice(NamedTuple):
    """A stretch of one axis, counted from the last; None is all."""

    axis: int | None = None
    start: int = 0
    length: int = 0

    def of(self, x: Tensor) -> Tensor:
        """That part of a tensor, which may have more axes before; one of size 1 along the axis is whole."""
        if self.axis is None or x.shape[self.axis] == 1:
            return x
        return x.narrow(self.axis, self.start, self.length)


@cache
def statistics_shapes(shape: tuple[int, ...], layers: int = 0) -> dict[str, tuple[int, ...]]:
    """The shapes of one tensor's statistics by name, without n; its first `layers` axes count tensors."""
    lead, one = shape[:layers], shape[layers:]
    axes = factored_axes(one)
    row = tuple(1 if axes and axis == axes[0] else size for axis, size in enumerate(one))
    col = tuple(1 if axis == axes[1] else size for axis, size in enumerate(one)) if axes else (0,)
    return {
        "momenta": (len(MOMENTUM_DECAYS), *shape),
        "second_moment": shape,
        "row": (len(FACTORED_DECAYS), *lead, *row),
        "col": (len(FACTORED_DECAYS), *lead, *col),
    }


def slice_size(device: torch.device) -> int:
    """How many elements are worked on at once."""
    return CPU_SLICE if device.type == "cpu" else GPU_SLICE


def finite_gradient(grad: Tensor) -> Tensor:
    """The gradient as float32, clipped to ±1000, NaN taken as zero."""
    return grad.float().nan_to_num(nan=0.0).clamp_(-GRADIENT_LIMIT, GRADIENT_LIMIT)


def steps(
    theta: Theta,
    stats: Statistics,
    grads: Tensor,
    params: Tensor,
    min_rms: float | Tensor,
    taken: float | Tensor = 1.0,
) -> Tensor:
    """One step for each of n tensors of one shape with at least one element; `stats` are updated in place.

    Args:
      theta: the rule's weights.
      stats: of these tensors.
      grads: [n, *S], as `finite_gradient` gives them.
      params: [n, *S], float32.
      min_rms: a tensor counts as at least this large in the length of its step.
      taken: 1 where statistics take the gradients in, 0 where they stay as they are.

    Returns:
      [n, *S], float32, to be added.
    """
    count, shape = grads.shape[0], tuple(grads.shape[1:])
    axes = factored_axes(shape)
    _observe(stats, grads, axes, taken)
    slices = _slices(shape, max(1, slice_size(grads.device) // count))
    inputs = _inputs(stats, grads, params, axes, slices[0])
    squares = inputs.square().sum(dim=2)
    for part in slices[1:]:
        squares += _inputs(stats, grads, params, axes, part).square().sum(dim=2)
    scale = torch.rsqrt(INPUT_FLOOR + squares / math.prod(shape)).unsqueeze(2)  # [n, inputs, 1]
    names = _WHOLE if axes else tuple(INPUTS)
    first_layer = torch.cat([_rows(theta, name) for name in names]) * scale  # [n, inputs, 4]
    along = (_along(theta, stats.row, _ALONG_ROW), _along(theta, stats.col, _ALONG_COL)) if axes else ()
    length = STEP_SCALE * sizes(params).clamp(min=min_rms)
    length = length.view(count, *(1,) * len(shape))
    if len(slices) == 1:
        return _network(theta, first_layer, along, inputs, shape) * length
    result = torch.empty_like(params)
    for part in slices:
        target = part.of(result)
        inputs = _inputs(stats, grads, params, axes, part)
        here = [part.of(x) for x in along]
        target.copy_(_network(theta, first_layer, here, inputs, tuple(target.shape[1:])) * length)
    return result


def sizes(params: Tensor) -> Tensor:
    """What the steps of each of n tensors [n, *S] are in proportion to: root mean squares [n], above 0."""
    return torch.sqrt(params.square().flatten(1).mean(dim=1) + RMS_FLOOR)


def _slices(shape: tuple[int, ...], most: int) -> list[_Slice]:
    """Stretches of the largest axis that cover a tensor, of at most `most` elements each if that can be."""
    size = math.prod(shape)
    if size <= most:
        return [_Slice()]
    axes = factored_axes(shape)
    axis = axes[0] if axes else 0
    length = max(1, most // (size // shape[axis]))
    starts = range(0, shape[axis], length)
    return [_Slice(axis - len(shape), start, min(length, shape[axis] - start)) for start in starts]


def _observe(stats: Statistics, grads: Tensor, axes: tuple[int, int] | None, taken: float | Tensor) -> None:
    for momentum, decay in zip(stats.momenta, MOMENTUM_DECAYS, strict=True):
        momentum.lerp_(grads, (1.0 - decay) * taken)
    square = grads.square()
    stats.second_moment.lerp_(square, (1.0 - SECOND_MOMENT_DECAY) * taken)
    square += FACTORED_FLOOR
    row = square.mean(dim=1 + axes[0], keepdim=True) if axes else square
    col = square.mean(dim=1 + axes[1], keepdim=True) if axes else None
    for k, decay in enumerate(FACTORED_DECAYS):
        stats.row[k].lerp_(row, (1.0 - decay) * taken)
        if col is not None:
            stats.col[k].lerp_(col, (1.0 - decay) * taken)


def _inputs(
    stats: Statistics, grads: Tensor, params: Tensor, axes: tuple[int, int] | None, part: _Slice
) -> Tensor:
    """Inputs of a slice of n tensors, [n, inputs, elements]: those of `_WHOLE`, and all 30 of vectors."""
    grad, param = part.of(grads).unsqueeze(1), part.of(params).unsqueeze(1)
    momenta = part.of(stats.momenta).transpose(0, 1)  # [n, 3, …]
    second_moment = part.of(stats.second_moment).unsqueeze(1)
    inverse_rms = torch.rsqrt(second_moment + 1e-6)
    if axes:
        row, col = stats.row.transpose(0, 1), stats.col.transpose(0, 1)
        row_share = row / (row.mean(dim=2 + axes[1], keepdim=True) + 1e-9)
        factor = row_share.clamp(min=1e-9).rsqrt() * part.of(col).clamp(min=1e-9).rsqrt()
        grad_factor = momentum_factor = factor
        along = {}
    else:
        row = part.of(stats.row).transpose(0, 1)
        grad_factor, momentum_factor = torch.rsqrt(row + 1e-9), torch.rsqrt(row)
        inverse = torch.rsqrt(row + 1e-8)
        along = {"row": row, "col": row, "inverse_row": inverse, "inverse_col": inverse}
    inputs = {
        "grad": grad,
        "clipped_grad": grad.clamp(-CLIPPED_GRADIENT, CLIPPED_GRADIENT),
        "param": param,
        "momentum": momenta,
        "second_moment": second_moment,
        "momentum_over_rms": momenta * inverse_rms,
        "inverse_rms": inverse_rms,
        "factored_grad": grad * grad_factor,
        "grad_over_rms": grad * inverse_rms,
        "factored_momentum": momenta * momentum_factor,
        **along,
    }
    return torch.cat([inputs[name] for name in INPUTS if name in inputs], dim=1).flatten(2)


def _rows(theta: Theta, name: str) -> Tensor:
    """The rows of the first layer that belong to an input."""
    return theta["w0"][FIRST_ROW[name] : FIRST_ROW[name] + INPUTS[name]]


def _along(theta: Theta, moment: Tensor, names: tuple[str, str]) -> Tensor:
    """What a factored moment [3, n, …] and its inverse root add to the first layer: [n, 4, …]."""
    total = torch.zeros((), device=moment.device)
    for values, name in zip((moment, torch.rsqrt(moment + 1e-8)), names, strict=True):
        flat = values.flatten(2).transpose(0, 1)  # [n, 3, …]
        scale = torch.rsqrt(INPUT_FLOOR + flat.square().mean(dim=2, keepdim=True))
        total = total + (_rows(theta, name) * scale).mT @ flat
    return total.unflatten(2, moment.shape[2:])


def _network(
    theta: Theta,
    first_layer: Tensor,
    along: tuple[Tensor, ...] | list[Tensor],
    inputs: Tensor,
    shape: tuple[int, ...],
) -> Tensor:
    """The network's steps, [n, *shape], in units of 0.001 of each tensor's root mean square."""
    hidden = first_layer.mT @ inputs + theta["b0"].unsqueeze(1)
    if along:
        hidden = hidden.unflatten(2, shape)
        for addend in along:
            hidden += addend
        hidden = hidden.flatten(2)
    hidden = (theta["w1"].T @ hidden.relu_() + theta["b1"].unsqueeze(1)).relu_()
    direction, magnitude = (theta["w2"].T @ hidden + theta["b2"].unsqueeze(1)).unbind(dim=1)
    return (-direction * torch.exp(MAGNITUDE_SCALE * magnitude)).unflatten(1, shape)
