"""VeLO in PyTorch: an LSTM for each tensor mixes its update rule from a bank (arXiv 2211.09760).

`celo.optimizers._velo` has the mathematics. What the LSTM remembers of a tensor is in the tensor's state; it
runs once a step, for all tensors together.
"""

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from celo._definitions import (
    CELO,
    MIXTURE_SCALES,
    MOST_AXES,
    RULE_WEIGHTS,
    SMALLEST_SQUARE,
    STEP_SCALE,
    VELO_INPUTS,
)
from celo._errors import CeloError
from celo.torch import _rule_steps, _schedule
from celo.torch._base import LearnedOptimizer
from celo.torch._sharded import Work, placed, whole
from celo.torch._weights import BoundWeights, Part, WeightsLike, bind

BANK, CONTROLLER = "rule_bank", "controller"  # groups of θ


class VeLO(LearnedOptimizer):
    """VeLO as a PyTorch optimizer. No weights of it are bundled: convert the published ones.

    >>> import celo, celo.torch, jax, torch
    >>> theta = celo.optimizers.Velo().init_theta(jax.random.key(0))  # or "velo.safetensors"
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = celo.torch.VeLO(model.parameters(), num_steps=100, weights=theta)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> optimizer.step(loss=loss)

    Args:
      params: parameters, named parameters, or groups of them, as in `Celo`; so are the others. Groups may
        have their own `lr`, `weight_decay`, `per_layer` and `maximize`.
      num_steps: the steps that training will take (the horizon); `set_horizon` changes it in mid-run.
      weights: a path to a .safetensors file (`celo convert theta.state velo.safetensors`), or θ itself, of
        VeLO-S or VeLO.
      lr: multiplies the learned step; 1 is what the weights were trained for.
      weight_decay: decoupled, in AdamW's units: each step also subtracts weight_decay * parameter times 0.001
        * lr. It does not follow the learned steps, which differ from tensor to tensor.
      nonfinite: what a step does whose gradient or loss is not finite.
      plateau: a share of the horizon where time stands still until `cool_down`.
      per_layer: for tensors that stack layers; each layer then has its own network.
      mixture_scale: what the mean over the bank is multiplied by. None: what the architecture in the file
        says, 100 for "velo_4000"; else 1.
      maximize: climb instead.
      foreach: False computes one tensor after another.
      kernel: as in `Celo`; it computes the tensors' networks.
      capturable: accepted as others' is.
      average_loss: whether the loss is averaged over the processes of `torch.distributed`.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: as `Celo`.

    Warns:
      OutOfRangeWarning: as `Celo`.

    References:
      Metz, Harrison, Freeman, et al., "VeLO: Training Versatile Learned Optimizers by Scaling Up",
      arXiv 2211.09760.
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
        per_layer: int = 0,
        mixture_scale: float | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        kernel: str = "auto",
        capturable: bool = True,
        average_loss: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            _scaled(bind(weights, _parts), mixture_scale),
            _rule_steps.options(lr, weight_decay, per_layer, maximize, foreach, capturable, kernel),
            schedule=_schedule.init_clock(num_steps, plateau),
            nonfinite=nonfinite,
            average_loss=average_loss,
            differentiable=differentiable,
            fused=fused,
        )

    def _state_shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        shapes = _rule_steps.state_shapes(group, param)
        remembered = (*param.shape[: group["per_layer"]], *self._weights.theta[CONTROLLER]["h0"].shape)
        return {**shapes, "hidden": remembered, "cell": remembered}

    def _first_values(self) -> dict[str, Tensor]:
        controller = self._weights.theta[CONTROLLER]
        return {"hidden": controller["h0"], "cell": controller["c0"]}

    def _advance(
        self, schedule: _schedule.State, loss: Tensor, work: list[Work], moves: float | Tensor
    ) -> tuple[float, _schedule.State]:
        """One step of the LSTM for all tensors, from gradients up to the last step's, as published."""
        shared, new = _schedule.listen(schedule, loss, _schedule.published_averaging)
        if not work:
            return 1.0, new
        device, theta = loss.device, self._theta(loss.device)[CONTROLLER]
        own = _tensor_inputs(work, device)
        inputs = torch.cat([shared.expand(len(own), -1), own], dim=1)
        loudest = (inputs @ theta["mix_w"] + theta["mix_b"]).relu_().amax(dim=0)
        x = inputs @ theta["skip_w"] + theta["skip_b"] + loudest
        before = tuple(_rows([item.state[name] for item in work], device) for name in ("hidden", "cell"))
        after = _schedule.lstm_step(x, before[0], before[1], theta["lstm_w"], theta["lstm_b"])
        if isinstance(moves, Tensor):
            after = tuple(torch.where(moves > 0, *pair) for pair in zip(after, before, strict=True))
        for name, rows in zip(("hidden", "cell"), after, strict=True):
            states = [item.state[name] for item in work]
            counts = [math.prod(state.shape[:-1]) for state in states]
            for state, part in zip(states, rows.split(counts), strict=True):
                state.copy_(placed(part.view(state.shape).to(state.device), state))
        return 1.0, new

    def _steps(
        self, group: dict[str, Any], work: list[Work], taken: float | Tensor
    ) -> Iterator[tuple[Work, Tensor]]:
        if not work:
            return
        device = work[0].value.device
        networks = _mixed(self._theta(device), _rows([item.state["hidden"] for item in work], device))
        for batch, steps in _rule_steps.take_steps(CELO, networks, group, work, taken):
            yield from _rule_steps.divided(batch, steps, group)


def _parts(theta: Mapping[str, Any]) -> tuple[Part, ...]:
    """What is read of θ, in its size; in VeLO-S's where it is no θ of VeLO, which is then refused by name."""
    try:
        units, banks = theta[CONTROLLER]["h0"].shape[0], theta[CONTROLLER]["control_b"].shape[0]
    except (KeyError, IndexError, AttributeError, TypeError):
        units, banks = 64, 32
    layers = {
        "mix": (VELO_INPUTS, units),
        "skip": (VELO_INPUTS, units),
        "lstm": (2 * units, 4 * units),
        "control": (units, banks),
    }
    controller = {"step_w": (units,), "step_b": (), "h0": (units,), "c0": (units,)}
    for name, shape in layers.items():
        controller |= {f"{name}_w": shape, f"{name}_b": shape[1:]}
    bank = {name: (banks, *shape) for name, shape in CELO.shapes.items()}
    return Part(BANK, bank), Part(CONTROLLER, controller)


def _scaled(weights: BoundWeights, mixture_scale: float | None) -> BoundWeights:
    """The weights, their shares of the bank multiplied by what makes their sum a mean of that scale."""
    if mixture_scale is None:
        mixture_scale = MIXTURE_SCALES.get(weights.architecture or "", 1.0)
    if not 0 < mixture_scale < math.inf:
        raise CeloError(
            f"mixture_scale must be positive and finite, got {mixture_scale!r}; it is 100 for the weights "
            "that VeLO's authors released, and 1 for others"
        )
    controller = dict(weights.theta[CONTROLLER])
    share = mixture_scale / len(controller["control_b"])
    controller |= {name: share * controller[name] for name in ("control_w", "control_b")}
    return dataclasses.replace(weights, theta={**weights.theta, CONTROLLER: controller})


def _rows(states: list[Tensor], device: torch.device) -> Tensor:
    """[tensors, units] of states [..., units]; a stack counts as as many tensors."""
    return torch.cat([whole(state).to(device).view(-1, state.shape[-1]) for state in states])


def _tensor_inputs(work: list[Work], device: torch.device) -> Tensor:
    """What the LSTM hears of each tensor by itself, [tensors, 12]; the counterpart in JAX says what."""
    measured, axes = [], []
    for item in work:
        stack = item.state["hidden"].shape[:-1]
        count, shape = math.prod(stack), item.value.shape[len(stack) :]
        spread, means = torch.var_mean(
            whole(item.state["momenta"]).reshape(3, count, -1), dim=2, correction=0
        )
        second = whole(item.state["second_moment"]).reshape(1, count, -1)
        second_spread, second_mean = torch.var_mean(second, dim=2, correction=0)
        square = whole(item.value).float().square().reshape(1, count, -1).mean(dim=2)
        measured.append(torch.cat([square, second_mean, second_spread, means, spread]).to(device))
        one_hot = torch.zeros(count, MOST_AXES + 1, dtype=torch.float32, device=device)
        if (longer_than_one := sum(size > 1 for size in shape)) <= MOST_AXES:
            one_hot[:, longer_than_one] = 1.0
        axes.append(one_hot)
    square, second_mean, second_spread, means, spread = torch.cat(measured, dim=1).split([1, 1, 1, 3, 3])
    inverse = square.clamp(min=SMALLEST_SQUARE).rsqrt()
    # The published variance of second moments is taken around the momenta's means, hence once for each.
    around = second_spread + (second_mean - means).square()
    sizes = torch.cat([second_mean * inverse, spread * inverse.square(), around * inverse.square()])
    sizes = 0.5 * (1e-8 + (10.0 * sizes).abs()).log().clamp(-5.0, 5.0)
    return torch.cat([sizes[:1].T, torch.cat(axes), sizes[1:].T], dim=1)


def _mixed(theta: dict[str, dict[str, Tensor]], hidden: Tensor) -> Tensor:
    """[tensors, W], each tensor's own network as `_rule.pack` gives one, the factor of its step within."""
    net, bank = theta[CONTROLLER], theta[BANK]
    controls = hidden @ net["control_w"] + net["control_b"]
    factors = hidden @ net["step_w"] + net["step_b"]
    parts = [controls @ bank[name].flatten(1) for name in RULE_WEIGHTS]
    for part in parts[-2:]:  # the direction, and with it the step, is linear in the last layer's first column
        part.view(len(part), -1, CELO.outputs)[..., 0] *= factors[:, None]
    no_least_size = torch.zeros_like(factors)[:, None]
    return torch.cat([*parts, no_least_size], dim=1)
