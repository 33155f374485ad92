"""Celo-Adam in PyTorch: Adam's direction times Celo's learned step size (arXiv 2501.12670, appendix)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from celo._definitions import ADAM_DECAYS, ADAM_FLOOR, ADAM_ROOT_FLOOR, STEP_SCALE
from celo.torch._base import LearnedOptimizer
from celo.torch._rule import finite_gradient
from celo.torch._weights import SCHEDULE, WeightsLike, bind


class CeloAdam(LearnedOptimizer):
    """Celo-Adam as a PyTorch optimizer. No weights of it are bundled: convert the published ones.

    Args:
      params: as in `Celo`; so are the others.
      num_steps: the steps that training will take (the horizon).
      weights: a path to a .safetensors file (`celo convert theta.state celo_adam.safetensors`), or θ itself.
      lr: multiplies the learned step.
      weight_decay: as in `Celo`.
      nonfinite: as in `Celo`.
      plateau: as in `Celo`.
      maximize: as in `Celo`.
      foreach: accepted as others' is.
      capturable: as in `Celo`.
      average_loss: as in `Celo`.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: as `Celo`.
    """

    def __init__(
        self,
        params: Any,
        num_steps: int,
        *,
        weights: WeightsLike,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        nonfinite: str | None = None,
        plateau: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = True,
        average_loss: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            bind(weights, (SCHEDULE,)),
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
            },
            num_steps=num_steps,
            plateau=plateau,
            nonfinite=nonfinite,
            average_loss=average_loss,
            differentiable=differentiable,
            fused=fused,
        )

    def _zero_state(self, param: Tensor) -> dict[str, Tensor]:
        first, second = (torch.zeros(param.shape, device=param.device) for _ in range(2))
        return {"step": torch.zeros((), device=param.device), "first": first, "second": second}

    def _steps(
        self, group: dict[str, Any], params: list[Tensor], grads: list[Tensor], taken: float | Tensor
    ) -> Iterator[tuple[Tensor, Tensor]]:
        first_decay, second_decay = ADAM_DECAYS
        for p, grad in zip(params, grads, strict=True):
            state, grad = self.state[p], finite_gradient(grad)
            state["step"] += taken
            count = state["step"].clamp(min=1)  # of a first gradient that was not taken
            first = state["first"].lerp_(grad, (1.0 - first_decay) * taken)
            second = state["second"].lerp_(grad.square(), (1.0 - second_decay) * taken)
            root = (second / (1.0 - second_decay**count) + ADAM_ROOT_FLOOR).sqrt_() + ADAM_FLOOR
            yield p, first / (1.0 - first_decay**count) / root * -STEP_SCALE
