"""Steps become updates: scaled, with weight decay, and added to parameters, those of several in one call."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from celo.torch import _rule, _sharded
from celo.torch._sharded import Work

_Step = tuple[Work, Tensor]


def add(
    group: dict[str, Any],
    steps: Iterable[_Step],
    taken: float | Tensor,
    scale: float | Tensor,
    decay: float | Tensor,
) -> None:
    """Adds steps to the parameters of a group, of one device.

    Args:
      group: its options.
      steps: float32; overwritten.
      taken: 0 where the step is taken back.
      scale: what steps are multiplied by.
      decay: how much of a parameter is subtracted, if the group has weight decay at all.
    """
    for chunk in _chunks(steps, together=group.get("foreach") is not False):
        updates = [step for _, step in chunk]
        torch._foreach_mul_(updates, scale)  # pyright: ignore[reportPrivateImportUsage]
        if isinstance(taken, Tensor):  # a step from statistics that are all zero may be NaN
            updates = [torch.where(taken > 0, update, 0.0) for update in updates]
        if group["weight_decay"]:
            for (item, _), update in zip(chunk, updates, strict=True):
                update -= decay * item.value.float()
        params = [item.param for item, _ in chunk]
        placed = [_sharded.placed(u, p) for u, p in zip(updates, params, strict=True)]
        torch._foreach_add_(params, placed)  # pyright: ignore[reportPrivateImportUsage]


def _chunks(steps: Iterable[_Step], together: bool) -> Iterator[list[_Step]]:
    """Steps by ones that are large, or by several that are large together."""
    chunk: list[_Step] = []
    size = 0
    for item, step in steps:
        chunk.append((item, step))
        size += step.numel()
        if not together or size >= _rule.slice_size(step.device):
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk
