"""Celo-Adam in PyTorch: Adam's direction times Celo's learned step size (arXiv 2501.12670, appendix)."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from celo._definitions import ADAM_DECAYS, ADAM_FLOOR, ADAM_ROOT_FLOOR, STEP_SCALE
from celo.torch import _adam, _schedule
from celo.torch._base import LearnedOptimizer
from celo.torch._rule import finite_gradient
from celo.torch._sharded import Work
from celo.torch._weights import CELO_SCHEDULE, SCHEDULE, WeightsLike, bind


class CeloAdam(LearnedOptimizer):
    """Celo-Adam as a PyTorch optimizer. No weights of it are bundled: convert the published ones.

    Args:
      params: as in `Celo`; so are the others.
      num_steps: the steps that training will take (the horizon).
      weights: a path to a .safetensors file (`celo convert theta.state celo_adam.safetensors`), or θ itself.
      lr: multiplies the learned step.
      weight_decay: in AdamW's units, whose learning rate is 0.001 * learned step size * lr.
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

    _decay_unit = STEP_SCALE

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
        bound = bind(weights, (CELO_SCHEDULE,))
        super().__init__(
            params,
            bound,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "maximize": maximize,
                "foreach": foreach,
                "capturable": capturable,
            },
            schedule=_schedule.init(bound.theta[SCHEDULE], num_steps, plateau),
            nonfinite=nonfinite,
            average_loss=average_loss,
            differentiable=differentiable,
            fused=fused,
        )

    def _state_shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        return _adam.state_shapes(param)

    def _steps(
        self, group: dict[str, Any], work: list[Work], taken: float | Tensor
    ) -> Iterator[tuple[Work, Tensor]]:
        for item in work:
            grad = finite_gradient(item.grad)
            step = _adam.direction(item.state, grad, taken, ADAM_DECAYS, ADAM_FLOOR, ADAM_ROOT_FLOOR)
            yield item, step * -STEP_SCALE
