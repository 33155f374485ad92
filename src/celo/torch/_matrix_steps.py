"""Matrices that step along their orthogonalised momentum.

`celo.optimizers._matrix_steps` has the mathematics.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from celo._definitions import MOMENTUM_DECAYS, RULE_STEP, ZERO_SIZE, matrix_shape, usual_size
from celo.torch import _kernel, _native, _rule
from celo.torch._orthogonal import factor
from celo.torch._sharded import Work

DECAY = MOMENTUM_DECAYS[0]


def matrix_of(group: dict[str, Any], param: Tensor) -> tuple[int, int] | None:
    """(rows, columns) of each matrix in a parameter that is one, or a stack of some."""
    return matrix_shape(tuple(param.shape), group["per_layer"], outputs_first=True)


def state_shapes(group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of what is kept of a parameter that steps so."""
    return {"momentum": tuple(param.shape), "first_size": tuple(param.shape[: group["per_layer"]])}


def take_steps(
    theta: _rule.Theta,
    group: dict[str, Any],
    work: list[Work],
    least: float | Tensor,
    taken: float | Tensor,
) -> Iterator[tuple[Work, Tensor]]:
    """The step of each matrix, or stack of some, float32 and in its shape.

    Args:
      theta: the rule's weights, with `log_matrix_step`.
      group: options of the parameters.
      work: one or more parameters, on one device; their state is updated in place.
      least: a matrix counts as at least this large.
      taken: 1 where the state takes the gradients in, 0 where it stays as it is.
    """
    native = _kernel.chosen(group["kernel"], work[0].value.device) == "native"
    batches = list(_batches(group, work, native))
    uphill = [_ahead(batch, matrix, taken) for matrix, batch in batches] if native else []
    if native:
        _native.orthogonalize(uphill, None)
    for number, (matrix, batch) in enumerate(batches):
        factors = uphill[number] if native else factor(_ahead(batch, matrix, taken))
        steps = factors * -_lengths(theta, batch, matrix, least, taken).view(-1, 1, 1)
        counts = [item.value.numel() // math.prod(matrix) for item in batch]
        for item, step in zip(batch, steps.split(counts), strict=True):
            yield item, step.view(item.value.shape)


def _batches(
    group: dict[str, Any], work: list[Work], native: bool
) -> Iterator[tuple[tuple[int, int], list[Work]]]:
    """(rows and columns, parameters whose matrices have so many and are worked on together)."""
    by_shape: dict[tuple[int, int], list[Work]] = {}
    for item in work:
        matrix = matrix_of(group, item.value)
        assert matrix is not None, f"a tensor of shape {list(item.value.shape)} has no matrices"
        by_shape.setdefault(matrix, []).append(item)
    for matrix, items in by_shape.items():
        largest = max(item.value.numel() for item in items)
        together = max(1, _rule.slice_size(items[0].value.device) // largest)
        most = 1 if native or group["foreach"] is False else together  # the native kernel takes all at once
        for first in range(0, len(items), most):
            yield matrix, items[first : first + most]


def _ahead(batch: list[Work], matrix: tuple[int, int], taken: float | Tensor) -> Tensor:
    """Nesterov's momentum, uphill, [n, rows, columns]; the momenta take the gradients in."""
    grad = _rule.finite_gradient(_rule.side_by_side([item.grad.reshape(-1, *matrix) for item in batch]))
    momenta = [item.state["momentum"] for item in batch]
    before = _rule.side_by_side([momentum.view(-1, *matrix) for momentum in momenta])
    new = before.lerp(grad, 1 - DECAY)
    ahead = grad.lerp_(new, DECAY).contiguous()
    _keep(momenta, before, new, taken)
    return ahead


def _keep(states: list[Tensor], old: Tensor, new: Tensor, taken: float | Tensor) -> None:
    """Writes a new statistic over the old one, if the gradients are taken in; a number says that they are."""
    kept = torch.where(taken.bool(), new, old) if isinstance(taken, Tensor) else new
    parts = kept.reshape(-1).split([state.numel() for state in states])
    torch._foreach_copy_(  # pyright: ignore[reportPrivateImportUsage]
        states, [part.view(s.shape) for part, s in zip(parts, states, strict=True)]
    )


def _lengths(
    theta: _rule.Theta,
    batch: list[Work],
    matrix: tuple[int, int],
    least: float | Tensor,
    taken: float | Tensor,
) -> Tensor:
    """[n], how long the steps of n matrices are where factors have singular values of one."""
    size = _rule.sizes(
        _rule.side_by_side([item.value.float().reshape(-1, math.prod(matrix)) for item in batch])
    )
    firsts = [item.state["first_size"] for item in batch]
    before = _rule.side_by_side([first.view(-1) for first in firsts])
    began = torch.where(size < ZERO_SIZE, usual_size(matrix), size)  # the size of zeros says nothing
    first = torch.where(before == 0.0, began, before)
    _keep(firsts, before, first, taken)
    power = theta["start_power"] if "start_power" in theta else torch.zeros_like(theta["log_matrix_step"])
    share = size.clamp(min=least) ** (1 - power) * first.clamp(min=least) ** power
    return RULE_STEP * math.sqrt(max(matrix)) * theta["log_matrix_step"].exp() * share
