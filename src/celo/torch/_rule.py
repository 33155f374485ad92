"""Learned update rules in PyTorch: `celo._kernels.rule_network` has the mathematics.

Tensors of one shape are computed together. Inputs as large as the tensor lie in one buffer, so that the first
layer is one product of matrices; those that vary along one axis are contracted with the weights before they
are broadcast. A large tensor is worked on a slice at a time, twice over: once for the root mean squares of
its inputs, once for the step.

A network is one row of numbers, as the native kernel reads it (`pack`). All tensors may have the same one, or
each its own.
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
    INPUTS,
    LARGEST_GRADIENT,
    MAGNITUDE_SCALE,
    MOMENTUM_DECAYS,
    RMS_FLOOR,
    RULE_WEIGHTS,
    STEP_SCALE,
    RuleNetwork,
    factored_axes,
)

Theta = dict[str, Tensor]

# Elements worked on at once: what a CPU's cache holds with all inputs of each, and what keeps a GPU busy.
CPU_SLICE, GPU_SLICE = 1 << 16, 1 << 24

_ALONG_ROW, _ALONG_COL = ("row", "inverse_row"), ("col", "inverse_col")  # inputs that vary along one axis


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


def side_by_side(parts: list[Tensor]) -> Tensor:
    """Stacks of tensors of one shape as one stack; without a copy if there is but one."""
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def finite_gradient(grad: Tensor) -> Tensor:
    """The gradient as float32, clipped to ±1000, NaN taken as zero."""
    return grad.float().nan_to_num(nan=0.0).clamp_(-GRADIENT_LIMIT, GRADIENT_LIMIT)


def unclipped_gradient(grad: Tensor) -> Tensor:
    """As `finite_gradient` where a rule clips no gradient: what is finite stays, up to 1e15."""
    known = torch.where(torch.isfinite(grad), grad.float(), finite_gradient(grad))
    return known.clamp_(-LARGEST_GRADIENT, LARGEST_GRADIENT)


def pack(theta: Theta, min_rms: float | Tensor = 0.0) -> Tensor:
    """[W], a network: its weights, and the least size of a tensor."""
    weights = [theta[name].reshape(-1) for name in RULE_WEIGHTS]
    return torch.cat([*weights, weights[0].new_empty(1).fill_(min_rms)])


def _unpack(rule: RuleNetwork, network: Tensor) -> tuple[Theta, Tensor]:
    """(weights by name, the least size of a tensor) of networks [W] or [n, W]."""
    shapes = {name: rule.shapes[name] for name in RULE_WEIGHTS}
    *parts, least = network.split([*map(math.prod, shapes.values()), 1], dim=-1)
    named = zip(shapes.items(), parts, strict=True)
    return {name: part.unflatten(-1, shape) for (name, shape), part in named}, least.squeeze(-1)


def are_apart(rule: RuleNetwork, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is matrices that are normalised apart: in its first two axes, one for each place.

    Those are the outputs and inputs of a convolution, whose kernel is [out, in, …] in PyTorch.
    """
    return rule.matrices_apart and len(shape) > 2


def steps(
    rule: RuleNetwork,
    network: Tensor,
    stats: Statistics,
    grads: Tensor,
    params: Tensor,
    taken: float | Tensor = 1.0,
) -> Tensor:
    """One step for each of n tensors of one shape with at least one element; `stats` are updated in place.

    Args:
      rule: which network.
      network: as `pack` gives it, of all tensors [W] or of each [n, W].
      stats: of these tensors.
      grads: [n, *S], float32; `finite_gradient` of them is taken.
      params: [n, *S], float32.
      taken: 1 where statistics take the gradients in, 0 where they stay as they are.

    Returns:
      [n, *S], float32, to be added.
    """
    count, shape, grads = grads.shape[0], tuple(grads.shape[1:]), finite_gradient(grads)
    axes, apart = factored_axes(shape), are_apart(rule, shape)
    theta, least = _unpack(rule, network)
    _observe(rule, stats, grads, axes, taken)
    names = [n for n in rule.inputs(len(shape)) if not axes or n not in _ALONG_ROW + _ALONG_COL]
    slices = _slices(shape, max(1, slice_size(grads.device) // count))
    over = (2, 3) if apart else tuple(range(2, 2 + len(shape)))  # of [n, inputs, *S]
    kept = [1 if axis in over else size for axis, size in enumerate(shape, start=2)]
    squares = grads.new_zeros(count, sum(INPUTS[name] for name in names), *kept)
    first = _inputs(rule, names, stats, grads, params, axes, slices[0])
    for number, part in enumerate(slices):
        inputs = _inputs(rule, names, stats, grads, params, axes, part) if number else first
        part.of(squares).add_(inputs.square().sum(dim=over, keepdim=True))
    scale = torch.rsqrt(rule.input_floor + squares / (math.prod(shape) // math.prod(kept)))
    first_layer = torch.cat([_rows(theta, name) for name in names], dim=-2)  # [inputs, hidden] or [n, …]
    if not apart:
        first_layer = first_layer * scale.flatten(2)
    along = (
        [_along(rule, theta, x, n, over) for x, n in ((stats.row, _ALONG_ROW), (stats.col, _ALONG_COL))]
        if axes
        else []
    )
    length: float | Tensor = 1.0
    if rule.says_length:
        length = (STEP_SCALE * torch.maximum(sizes(params), least)).view(count, *(1,) * len(shape))
    result = torch.empty_like(params)
    for part in slices:
        inputs = _inputs(rule, names, stats, grads, params, axes, part) if len(slices) > 1 else first
        if apart:
            inputs *= part.of(scale)
        target = part.of(result)
        here = [part.of(x) for x in along]
        step = _network(rule, theta, first_layer, here, inputs.flatten(2), tuple(target.shape[1:])) * length
        if len(slices) == 1:
            return step
        target.copy_(step)
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


def _observe(
    rule: RuleNetwork,
    stats: Statistics,
    grads: Tensor,
    axes: tuple[int, int] | None,
    taken: float | Tensor,
) -> None:
    for momentum, decay in zip(stats.momenta, MOMENTUM_DECAYS, strict=True):
        momentum.lerp_(grads, (1.0 - decay) * taken)
    square = grads.square()
    stats.second_moment.lerp_(square, (1.0 - rule.second_moment_decay) * taken)
    square += FACTORED_FLOOR
    row = square.mean(dim=1 + axes[0], keepdim=True) if axes else square
    col = square.mean(dim=1 + axes[1], keepdim=True) if axes else None
    for k, decay in enumerate(FACTORED_DECAYS):
        stats.row[k].lerp_(row, (1.0 - decay) * taken)
        if col is not None:
            stats.col[k].lerp_(col, (1.0 - decay) * taken)


def _inputs(
    rule: RuleNetwork,
    names: list[str],
    stats: Statistics,
    grads: Tensor,
    params: Tensor,
    axes: tuple[int, int] | None,
    part: _Slice,
) -> Tensor:
    """Inputs of these names of a slice of n tensors, [n, inputs, *slice]."""
    grad, param = part.of(grads).unsqueeze(1), part.of(params).unsqueeze(1)
    momenta = part.of(stats.momenta).transpose(0, 1)  # [n, 3, …]
    second_moment = part.of(stats.second_moment).unsqueeze(1)
    inverse_rms = torch.rsqrt(second_moment + rule.second_moment_floor)
    if axes:
        row, col = stats.row.transpose(0, 1), stats.col.transpose(0, 1)
        row_share = row / (row.mean(dim=2 + axes[1], keepdim=True) + 1e-9)
        factor = row_share.clamp(min=1e-9).rsqrt() * part.of(col).clamp(min=1e-9).rsqrt()
        grad_factor = momentum_factor = factor
        along = {}
    else:
        row = part.of(stats.row).transpose(0, 1)
        grad_factor, momentum_factor = torch.rsqrt(row + 1e-9), torch.rsqrt(row + rule.vector_floor)
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
    return torch.cat([inputs[name] for name in names], dim=1)


def _rows(theta: Theta, name: str) -> Tensor:
    """The rows of the first layer that belong to an input."""
    return theta["w0"][..., FIRST_ROW[name] : FIRST_ROW[name] + INPUTS[name], :]


def _along(
    rule: RuleNetwork, theta: Theta, moment: Tensor, names: tuple[str, str], over: tuple[int, ...]
) -> Tensor:
    """What a factored moment [3, n, …] and its inverse root add to the first layer: [n, hidden, …]."""
    total = torch.zeros((), device=moment.device)
    for values, name in zip((moment, torch.rsqrt(moment + 1e-8)), names, strict=True):
        values = values.transpose(0, 1)  # [n, 3, …]
        scale = torch.rsqrt(rule.input_floor + values.square().mean(dim=over, keepdim=True))
        total = total + _rows(theta, name).mT @ (values * scale).flatten(2)
    return total.unflatten(2, moment.shape[2:])


def _network(
    rule: RuleNetwork,
    theta: Theta,
    first_layer: Tensor,
    along: list[Tensor],
    inputs: Tensor,
    shape: tuple[int, ...],
) -> Tensor:
    """What the network says, [n, *shape]; Celo's in units of 0.001 of each tensor's root mean square."""
    hidden = first_layer.mT @ inputs + theta["b0"].unsqueeze(-1)
    if along:
        hidden = hidden.unflatten(2, shape)
        for addend in along:
            hidden += addend
        hidden = hidden.flatten(2)
    hidden = (theta["w1"].mT @ hidden.relu_() + theta["b1"].unsqueeze(-1)).relu_()
    output = theta["w2"].mT @ hidden + theta["b2"].unsqueeze(-1)
    step = -output[:, 0]
    if rule.says_length:
        step = step * torch.exp(MAGNITUDE_SCALE * output[:, 1])
    return step.unflatten(1, shape)
