"""A learned rule over tensors of any shapes: their statistics and their steps, those of one shape together.

Whatever the rule's network (`RuleNetwork`), leading axes may count tensors (`per_layer`), and the native or
the Triton kernel computes where it can.
"""

import math
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from celo._definitions import RuleNetwork
from celo._errors import CeloError
from celo.torch import _kernel, _native, _rule
from celo.torch._rule import Statistics
from celo.torch._sharded import Work

Batch = tuple[list[Work], Tensor]  # tensors of one shape, and their steps [n, *S]; a stack counts as n
_Owned = tuple[Work, Tensor]  # a tensor, and its network


def options(
    lr: float | Tensor,
    weight_decay: float,
    per_layer: int,
    maximize: bool,
    foreach: bool | None,
    capturable: bool,
    kernel: str,
) -> dict[str, Any]:
    """What groups of all optimizers with such rules may have of their own."""
    return {
        "lr": lr,
        "weight_decay": weight_decay,
        "per_layer": per_layer,
        "maximize": maximize,
        "foreach": foreach,
        "capturable": capturable,
        "kernel": kernel,
    }


def state_shapes(group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
    """The shapes of a parameter's statistics.

    Raises:
      CeloError: if `per_layer` is no count, or larger than the parameter has axes.
    """
    layers = group["per_layer"]
    if isinstance(layers, bool) or not isinstance(layers, int) or layers < 0:
        raise CeloError(f"per_layer must be a count of leading axes, 0 or more, got {layers!r}")
    if param.dim() < layers:
        raise CeloError(
            f"per_layer={layers} needs tensors of {layers} axes at least, got one of shape "
            f"{list(param.shape)}; put it into a group with per_layer=0"
        )
    return dict(_rule.statistics_shapes(tuple(param.shape), layers))


def take_steps(
    rule: RuleNetwork, networks: Tensor, group: dict[str, Any], work: list[Work], taken: float | Tensor
) -> Iterator[Batch]:
    """The steps, float32, of tensors that lie on one device and have elements.

    Args:
      rule: which network.
      networks: as `_rule.pack` gives it, of all [W]; or of each [n, W] in the order of `work`, those of the
        tensors that one stacks one after another.
      group: options of the parameters.
      work: the parameters; statistics are updated in place.
      taken: 1 where statistics take the gradients in, 0 where they stay as they are.
    """
    layers = group["per_layer"]
    counts = [math.prod(item.value.shape[:layers]) for item in work]
    own = networks.split(counts) if networks.dim() == 2 else [networks] * len(work)
    kernel = _kernel.chosen(group["kernel"], work[0].value.device)
    by_shape: dict[torch.Size, list[_Owned]] = {}
    for item, network in zip(work, own, strict=True):
        if kernel == "native" and _native.has_form(rule, tuple(item.value.shape[layers:])):
            yield [item], _native_steps(rule, network, item, layers, taken)
        else:
            by_shape.setdefault(item.value.shape, []).append((item, network))
    for shape, of_shape in by_shape.items():
        by_triton = kernel == "triton" and _has_triton_form(rule, tuple(shape[layers:]))
        compute = _triton_steps if by_triton else partial(_batched_steps, rule)
        together = max(1, _rule.slice_size(of_shape[0][0].value.device) // shape.numel())
        most = 1 if group["foreach"] is False else together
        for first in range(0, len(of_shape), most):
            batch = of_shape[first : first + most]
            yield [item for item, _ in batch], compute(batch, layers, taken)


def divided(batch: list[Work], steps: Tensor, group: dict[str, Any]) -> Iterator[tuple[Work, Tensor]]:
    """(a tensor, its step in its shape) of a batch."""
    counts = [math.prod(item.value.shape[: group["per_layer"]]) for item in batch]
    for item, step in zip(batch, steps.split(counts), strict=True):
        yield item, step.reshape(item.value.shape)


def _has_triton_form(rule: RuleNetwork, shape: tuple[int, ...]) -> bool:
    from celo.torch import _triton  # it imports triton

    return _triton.has_form(rule, shape)


def _batched_steps(rule: RuleNetwork, batch: list[_Owned], layers: int, taken: float | Tensor) -> Tensor:
    """By PyTorch's own operations."""
    items = [item for item, _ in batch]
    stats = Statistics(*(_joined(items, name, layers) for name in Statistics._fields))
    shape = stats.second_moment.shape[1:]
    grads = _rule.side_by_side([x.grad.float().reshape(-1, *shape) for x in items])
    values = _rule.side_by_side([x.value.float().reshape(-1, *shape) for x in items])
    found = _rule.steps(rule, _network(batch), stats, grads, values, taken)
    if len(batch) > 1:
        for name, joined in zip(Statistics._fields, stats, strict=True):
            _take_apart(items, name, joined)
    return found


def _triton_steps(batch: list[_Owned], layers: int, taken: float | Tensor) -> Tensor:
    """By Triton, which copies side by side only what is small."""
    from celo.torch import _triton

    items = [item for item, _ in batch]
    shape = tuple(items[0].value.shape[layers:]) or (1,)
    row, col = (_joined(items, name, layers) for name in ("row", "col"))
    found = _triton.steps(
        _network(batch),
        [x.state["momenta"].view(3, -1, *shape) for x in items],
        [x.state["second_moment"].view(-1, *shape) for x in items],
        row,
        col,
        [x.grad.float().reshape(-1, *shape) for x in items],
        [x.value.float().reshape(-1, *shape) for x in items],
        taken,
    )
    if len(batch) > 1:
        _take_apart(items, "row", row)
        _take_apart(items, "col", col)
    return found


def _network(batch: list[_Owned]) -> Tensor:
    """That of all tensors [W], or of each [n, W]."""
    networks = [network for _, network in batch]
    return networks[0] if networks[0].dim() == 1 else _rule.side_by_side(networks)


def _joined(batch: list[Work], name: str, layers: int) -> Tensor:
    """A statistic of all tensors of a batch, [3, n, …] or [n, …], each of one axis at least."""
    parts = []
    for item in batch:
        state = item.state[name]
        sizes = item.value.shape[layers:] or (1,)
        if name == "second_moment":
            parts.append(state.view(-1, *sizes))
        else:
            rest = state.shape[1 + layers :] or (1,)
            parts.append(state.view(state.shape[0], -1, *rest) if state.numel() else state.new_zeros(3, 1, 0))
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=0 if name == "second_moment" else 1)


def _take_apart(batch: list[Work], name: str, joined: Tensor) -> None:
    """Writes a statistic of a batch back into the states of its tensors."""
    count = joined.shape[0 if name == "second_moment" else 1] // len(batch)
    parts = joined.split(count, dim=0 if name == "second_moment" else 1)
    for item, part in zip(batch, parts, strict=True):
        state = item.state[name]
        if state.numel():
            state.copy_(part.reshape(state.shape))


def _native_steps(
    rule: RuleNetwork, network: Tensor, item: Work, layers: int, taken: float | Tensor
) -> Tensor:
    """By the native kernel. Of matrices that are apart each must lie in one piece of memory."""
    shape = tuple(item.value.shape[layers:]) or (1,)
    apart = _rule.are_apart(rule, shape)

    def arranged(x: Tensor, before: int) -> Tensor:
        """The axes of matrices last; `before` are in front of a tensor's own."""
        return x.movedim((before, before + 1), (-2, -1)) if apart else x

    def restored(x: Tensor, before: int) -> Tensor:
        return x.movedim((-2, -1), (before, before + 1)) if apart else x

    stats = []
    for name in Statistics._fields:
        before = layers + (name != "second_moment")
        stat = arranged(item.state[name], before) if item.state[name].numel() else item.state[name]
        if not stat.is_contiguous():
            stat = stat.contiguous()
            item.state[name] = restored(stat, before)
        stats.append(stat)
    kept = [x.clone() for x in stats] if isinstance(taken, Tensor) else []
    gradient = arranged(item.grad, layers).float().contiguous()
    value = arranged(item.value, layers).float().contiguous()
    one = shape[:2] if apart else shape
    step = _native.rule_steps(
        rule, network, Statistics(*stats), gradient.view(-1, *one), value.view(-1, *one)
    )
    if isinstance(taken, Tensor):  # the kernel always takes gradients in
        for new, old in zip(stats, kept, strict=True):
            new.copy_(torch.where(taken.bool(), new, old))
    return restored(step.view(gradient.shape), layers).reshape(-1, *shape)
