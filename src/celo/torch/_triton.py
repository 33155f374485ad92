"""Celo's update rule by Triton, for GPUs: `_rule.steps` in three passes over a tensor.

    observe    new momenta and second moments; sums for the normalisers that need nothing else
    normalise  the sums that need the factored moments of the whole tensor
    step       30 inputs -> 4 -> 4 -> (direction, magnitude) -> step

`rule.cc` has the same three; `_triton_passes` has them in Triton's language. What is small, the factored
moments and the network with its normalisers, PyTorch computes in between. Sums over blocks are added in one
order, so that all processes of a training take the same steps.

Both modules import triton. With TRITON_INTERPRET=1 set before that it also runs on CPUs, slowly.
"""

import math
from functools import cache, lru_cache
from typing import NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports]
from torch import Tensor

from celo._definitions import (
    CELO,
    FACTORED_DECAYS,
    FACTORED_FLOOR,
    HIDDEN,
    INPUTS,
    MOMENTUM_DECAYS,
    NUM_INPUTS,
    RMS_FLOOR,
    STEP_SCALE,
    RuleNetwork,
    factored_axes,
    memory_layout,
)
from celo.torch import _triton_passes as passes

_BLOCK = 1 << 10  # elements that one program works on
_WARPS = 8  # so that what the network needs of so many elements stays in registers
_LARGEST = 1 << 31  # elements of a tensor that 32 bits count


def has_form(rule: RuleNetwork, shape: tuple[int, ...]) -> bool:
    """Whether there are kernels for the rule and a tensor of this shape."""
    return rule == CELO and math.prod(shape) < _LARGEST


class _Geometry(NamedTuple):
    """How n tensors of one shape are divided among programs; the arguments of all kernels."""

    n: int
    size: int  # elements of a tensor
    outer: int  # A, a, M, b, I
    a: int
    middle: int
    b: int
    inner: int
    A: int  # of a, b and I
    B: int
    INNER: int
    FACTORED: bool  # whether there are factors; the rest is one line, in I
    ROW_ALONG: bool  # whether the row moment is the one averaged over b

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Along a, b and I."""
        pairs = ((self.a, self.A), (self.b, self.B), (self.inner, self.INNER))
        return tuple(-(-length // at_once) for length, at_once in pairs)  # type: ignore[return-value]

    @property
    def blocks(self) -> int:
        """Programs for one tensor."""
        return self.outer * self.middle * math.prod(self.tiles)

    @property
    def across(self) -> int:
        """Elements of the moment averaged over a."""
        return self.outer * self.middle * self.b * self.inner

    @property
    def along(self) -> int:
        """Elements of the moment averaged over b."""
        return self.outer * self.a * self.middle * self.inner


def _geometry(n: int, shape: tuple[int, ...]) -> _Geometry:
    sizes, row_along = memory_layout(shape)
    factored = len(sizes) > 1
    outer, a, middle, b, inner = sizes if factored else (1, 1, 1, 1, sizes[0])

    def power(length: int, most: int) -> int:
        return min(1 << (length - 1).bit_length(), most)

    i_at_once = power(inner, _BLOCK)
    b_at_once = power(b, max(1, min(64, _BLOCK // i_at_once)))
    a_at_once = power(a, _BLOCK // (i_at_once * b_at_once))
    at_once = (a_at_once, b_at_once, i_at_once)
    return _Geometry(n, math.prod(shape), outer, a, middle, b, inner, *at_once, factored, row_along)


INTERPRETED = not isinstance(passes.step, triton.JITFunction)


@cache
def _rates(device: torch.device) -> Tensor:
    """What share of a new value moments take: three momenta, the second moment, three factored moments."""
    decays = (*MOMENTUM_DECAYS, CELO.second_moment_decay, *FACTORED_DECAYS)
    return torch.tensor([1.0 - decay for decay in decays], dtype=torch.float32, device=device)


@lru_cache(maxsize=1024)
def _table(addresses: tuple[int, ...], device: torch.device) -> Tensor:
    """Addresses where a kernel can read them; to be copied there without waiting they must be pinned."""
    table = torch.tensor(addresses, dtype=torch.int64)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


def _places(parts: list[list[Tensor]]) -> tuple[Tensor, bool]:
    """(the table [parts, n], whether all begin at multiples of 16 bytes) of stacks of n tensors a part."""
    addresses = [
        x.data_ptr() + index * x.stride(0) * x.element_size()
        for part in parts
        for x in part
        for index in range(len(x))
    ]
    return _table(tuple(addresses), parts[0][0].device), all(address % 16 == 0 for address in addresses)


def _steps(
    network: Tensor,
    momenta: list[Tensor],
    second_moments: list[Tensor],
    row: Tensor,
    col: Tensor,
    grads: list[Tensor],
    params: list[Tensor],
    taken: Tensor,
) -> Tensor:
    shape, count = tuple(grads[0].shape[1:]), sum(map(len, grads))
    g = _geometry(count, shape)
    grid = (count * g.blocks,)
    places, aligned = _places([grads, params, second_moments, *([x[k] for x in momenta] for k in range(3))])

    def buffer(*sizes: int) -> Tensor:
        return row.new_empty(sizes)

    rates = _rates(row.device) * taken
    names = passes.PLAIN if g.FACTORED else passes.PLAIN + passes.OF_VECTORS
    plain = buffer(count, g.blocks, sum(INPUTS[name] for name in names))
    tiles_a, tiles_b, _ = g.tiles
    across = buffer(count, tiles_a, g.across if g.FACTORED else 0)
    along = buffer(count, tiles_b, g.along if g.FACTORED else 0)
    passes.observe[grid](  # pyright: ignore[reportIndexIssue]
        places, row, rates, plain, across, along, *g, aligned, num_warps=_WARPS
    )
    sums = plain.sum(dim=1).split([INPUTS[name] for name in names], dim=1)  # [n, inputs] each
    squares = {name: total / g.size for name, total in zip(names, sums, strict=True)}
    if g.FACTORED:
        over = [across.sum(dim=1) / g.a, along.sum(dim=1) / g.b]
        of_row, of_col = over[::-1] if g.ROW_ALONG else over
        for moment, mean in ((row, of_row), (col, of_col)):
            mean = (mean + FACTORED_FLOOR).view(moment.shape[1:])
            moment.lerp_(mean.expand(moment.shape), rates[4:].view(-1, *[1] * mean.dim()))
        axes = factored_axes(shape)
        assert axes
        means = row.mean(dim=2 + axes[1], keepdim=True)
        factored = buffer(count, g.blocks, 6)
        arguments = (places, row, col, means, factored, *g, aligned)
        passes.normalise[grid](*arguments, num_warps=_WARPS)  # pyright: ignore[reportIndexIssue]
        squares["factored_grad"], squares["factored_momentum"] = (
            factored.sum(dim=1).div_(g.size).split(3, dim=1)
        )
        for name, moment in (("row", row), ("col", col)):
            flat = moment.flatten(2)
            squares[name] = flat.square().mean(dim=2).T
            squares[f"inverse_{name}"] = (flat + 1e-8).reciprocal_().mean(dim=2).T
    else:
        means = row
        squares |= {"col": squares["row"], "inverse_col": squares["inverse_row"]}
    scales = torch.rsqrt(torch.cat([squares[name] for name in INPUTS], dim=1) + CELO.input_floor)
    length = STEP_SCALE * torch.maximum(torch.sqrt(squares["param"] + RMS_FLOOR), network[..., -1:])
    weights = network.expand(count, -1)
    first = NUM_INPUTS * HIDDEN
    scaled = weights[:, :first] * scales.repeat_interleave(HIDDEN, dim=1)
    networks = torch.cat([scaled, weights[:, first:-1], length], dim=1)
    steps = buffer(count, *shape)
    passes.step[grid](  # pyright: ignore[reportIndexIssue]
        places, row, col, means, networks, steps, *g, aligned, num_warps=_WARPS
    )
    return steps


# What torch.compile sees; it does not look into it.
_steps_op = torch.library.custom_op(
    "celo::triton_rule_steps", _steps, mutates_args=("momenta", "second_moments", "row", "col")
)
_steps_op.register_fake(lambda network, momenta, second_moments, *rest: torch.cat(second_moments))


def steps(
    network: Tensor,
    momenta: list[Tensor],
    second_moments: list[Tensor],
    row: Tensor,
    col: Tensor,
    grads: list[Tensor],
    params: list[Tensor],
    taken: float | Tensor = 1.0,
) -> Tensor:
    """`_rule.steps` of raw gradients by Celo's rule; statistics are updated in place.

    Tensors that are as large as a parameter, or larger, are given in lists, and stay where they are.

    Args:
      network: as `_rule.pack` gives it, of all tensors [W] or of each [n, W].
      momenta: stacks of tensors of one shape that has a form, [3, k, *S], of n tensors in all.
      second_moments: likewise, [k, *S].
      row: [3, n, …].
      col: [3, n, …].
      grads: likewise, [k, *S]; NaN counts as zero.
      params: likewise, [k, *S].
      taken: 1 where statistics take the gradients in, 0 where they stay as they are.

    All are float32, on a GPU unless Triton's interpreter runs.
    """
    call = _steps_op if torch.compiler.is_compiling() else _steps
    taken = taken if isinstance(taken, Tensor) else row.new_full((), taken)
    given = [*momenta, *second_moments, row, col]
    in_order = [x.contiguous() for x in given]
    count = len(momenta)
    found = call(
        *(network, in_order[:count], in_order[count : 2 * count], in_order[-2], in_order[-1]),
        *([x.contiguous() for x in grads], [x.contiguous() for x in params], taken),
    )
    for x, changed in zip(given, in_order, strict=True):
        if x is not changed:
            x.copy_(changed)
    return found
