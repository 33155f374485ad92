"""Adam's moments and direction in PyTorch: of Celo-Adam, some tensors of Celo2, and groups of AdamW."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from celo.torch._sharded import Work

ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01}  # as torch.optim.AdamW


def state_shapes(param: Tensor) -> dict[str, tuple[int, ...]]:
    """A count of gradients, and the two moments."""
    return {"step": (), "first": tuple(param.shape), "second": tuple(param.shape)}


def update_moments(
    state: dict[str, Tensor], grad: Tensor, taken: float | Tensor, decays: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """The two moments, not bias-corrected, after a gradient; the state is updated in place."""
    first_decay, second_decay = decays
    state["step"] += taken
    first = state["first"].lerp_(grad, (1.0 - first_decay) * taken)
    return first, state["second"].lerp_(grad.square(), (1.0 - second_decay) * taken)


def direction(
    state: dict[str, Tensor],
    grad: Tensor,
    taken: float | Tensor,
    decays: tuple[float, float],
    floor: float,
    floor_in_root: float = 0.0,
) -> Tensor:
    """The corrected first moment over the root of the second; the state is updated in place."""
    first_decay, second_decay = decays
    first, second = update_moments(state, grad, taken, decays)
    count = state["step"].clamp(min=1)  # of a first gradient that was not taken
    root = (second / (1.0 - second_decay**count) + floor_in_root).sqrt_() + floor
    return first / (1.0 - first_decay**count) / root


def adamw_steps(
    group: dict[str, Any], work: list[Work], taken: float | Tensor
) -> Iterator[tuple[Work, Tensor]]:
    """AdamW's steps before its learning rate; elements of a gradient that are not finite count as zero."""
    for item in work:
        grad = item.grad.float().nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        yield item, -direction(item.state, grad, taken, group["betas"], group["eps"])
