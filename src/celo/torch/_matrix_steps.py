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
    by_shape: dict[tuple[int, int], list[tuple[Work, Tensor, Tensor]]] = {}
    for item in work:
        matrix = matrix_of(group, item.value)
        assert matrix is not None, f"a tensor of shape {list(item.value.shape)} has no matrices"
        ahead = _ahead(item, taken).view(-1, *matrix)
        by_shape.setdefault(matrix, []).append((item, ahead, _lengths(theta, item, matrix, least, taken)))
    if native:
        _native.orthogonalize([ahead for parts in by_shape.values() for _, ahead, _ in parts], None)
    for (rows, columns), parts in by_shape.items():
        counts = [len(ahead) for _, ahead, _ in parts]
        together = _rule.slice_size(parts[0][1].device) // (rows * columns * max(counts))
        most = 1 if native or group["foreach"] is False else max(1, together)
        for first in range(0, len(parts), most):
            batch = parts[first : first + most]
            stack = batch[0][1] if len(batch) == 1 else torch.cat([ahead for _, ahead, _ in batch])
            factors = stack if native else factor(stack)
            of_each = factors.split([len(ahead) for _, ahead, _ in batch])
            for (item, _, length), own in zip(batch, of_each, strict=True):
                yield item, (own * -length.view(-1, 1, 1)).view(item.value.shape)


def _ahead(item: Work, taken: float | Tensor) -> Tensor:
    """Nesterov's momentum, uphill; the momentum takes the gradient in."""
    grad, momentum = _rule.finite_gradient(item.grad), item.state["momentum"]
    new = momentum.lerp(grad, 1 - DECAY)
    ahead = grad.lerp_(new, DECAY).contiguous()
    _keep(momentum, new, taken)
    return ahead


def _keep(old: Tensor, new: Tensor, taken: float | Tensor) -> None:
    """Writes a new statistic over the old one, if the gradients are taken in; a number says that they are."""
    old.copy_(torch.where(taken.bool(), new, old) if isinstance(taken, Tensor) else new)


def _lengths(
    theta: _rule.Theta, item: Work, matrix: tuple[int, int], least: float | Tensor, taken: float | Tensor
) -> Tensor:
    """[n], how long the steps of a tensor's n matrices are where factors have singular values of one."""
    count = item.value.numel() // math.prod(matrix)
    size = _rule.sizes(item.value.float().reshape(count, -1))
    before = item.state["first_size"].view(count)
    began = torch.where(size < ZERO_SIZE, usual_size(matrix), size)  # the size of zeros says nothing
    first = torch.where(before == 0.0, began, before)
    _keep(before, first, taken)
    power = theta["start_power"] if "start_power" in theta else torch.zeros_like(theta["log_matrix_step"])
    share = size.clamp(min=least) ** (1 - power) * first.clamp(min=least) ** power
    return RULE_STEP * math.sqrt(max(matrix)) * theta["log_matrix_step"].exp() * share
