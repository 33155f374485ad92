"""Celo and its update rule as PyTorch optimizers (arXiv 2501.12670, section 3)."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from celo._definitions import CELO, RULE_STEP, matrix_shape
from celo.torch import _kernel, _matrix_steps, _native, _rule, _rule_steps, _schedule
from celo.torch._base import LearnedOptimizer
from celo.torch._orthogonal import polar_factor
from celo.torch._sharded import Work
from celo.torch._weights import CELO_RULE, CELO_SCHEDULE, RULE, SCHEDULE, WeightsLike, bind


class _RuleOptimizer(LearnedOptimizer):
    """An optimizer whose steps are those of Celo's update rule, or of matrices along their momentum."""

    _decay_unit = RULE_STEP

    def _state_shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        shapes = _rule_steps.state_shapes(group, param)
        return _matrix_steps.state_shapes(group, param) if self._is_matrix(group, param) else shapes

    def _steps(
        self, group: dict[str, Any], work: list[Work], taken: float | Tensor
    ) -> Iterator[tuple[Work, Tensor]]:
        if not work:
            return
        theta = self._theta(work[0].value.device)[RULE]
        least = group["min_rms"]
        if least is None:
            least = theta["log_min_rms"].exp() if "log_min_rms" in theta else 0.0
        matrices, rest = [], []
        for item in work:
            (matrices if self._is_matrix(group, item.value) else rest).append(item)
        if matrices:
            yield from _matrix_steps.take_steps(theta, group, matrices, least, taken)
        if rest:
            batches = _rule_steps.take_steps(CELO, _rule.pack(theta, least), group, rest, taken)
            if group["orthogonalize"] and not self._has_matrices:
                batches = _orthogonalized(group, batches)
            for batch, steps in batches:
                yield from _rule_steps.divided(batch, steps, group)

    @property
    def _has_matrices(self) -> bool:
        """Whether the weights have matrices step along their momentum."""
        return "log_matrix_step" in self._weights.theta[RULE]

    def _is_matrix(self, group: dict[str, Any], param: Tensor) -> bool:
        """Whether a tensor steps along its momentum."""
        wanted = self._has_matrices and group["orthogonalize"] is not False
        return wanted and param.numel() > 0 and _matrix_steps.matrix_of(group, param) is not None


def _orthogonalized(
    group: dict[str, Any], batches: Iterator[_rule_steps.Batch]
) -> Iterator[_rule_steps.Batch]:
    """The rule's steps, those of matrices orthogonalised; by the native kernel all in one call."""
    done, matrices = [], []
    for batch, steps in batches:
        native = _kernel.chosen(group["kernel"], steps.device) == "native"
        if matrix := matrix_shape(tuple(steps.shape[1:]), outputs_first=True):
            stack = steps.view(-1, *matrix)
            if native:
                matrices.append(stack)
            else:
                steps = polar_factor(stack).view(steps.shape)
        if native:
            done.append((batch, steps))
        else:
            yield batch, steps
    if matrices:
        _native.orthogonalize(matrices, torch.ones(sum(map(len, matrices))))
    yield from done


class Celo(_RuleOptimizer):
    """Celo as a PyTorch optimizer, with pretrained weights.

    >>> import celo.torch, torch
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = celo.torch.Celo(model.parameters(), num_steps=100)
    >>> loss = model(torch.ones(4, 3)).square().mean()
    >>> loss.backward()
    >>> optimizer.step(loss=loss)

    Each step reads the training loss: `step(loss=loss)`, `step(closure)`, or `report_loss(loss)` before a
    `step()` that a trainer calls. Among several processes it is averaged, so that all take the same steps.

    Args:
      params: parameters, named parameters, or groups of them. Groups may have their own `lr`,
        `weight_decay`, `min_rms`, `per_layer`, `orthogonalize` and `maximize`. A group with `rule="adamw"`
        is AdamW's, with its `lr` (1e-3), `betas`, `eps` and `weight_decay` in AdamW's units, and no learned
        schedule; `celo.torch.param_groups` makes such groups. Sharded parameters (`fully_shard`, tensor
        parallelism) take the same steps as whole ones.
      num_steps: the steps that training will take (the horizon); `set_horizon` changes it in mid-run.
      lr: multiplies the learned step; 1 is what the weights were trained for. A scheduler of
        `torch.optim.lr_scheduler` multiplies it too: its schedule comes on top of the learned one.
      weight_decay: decoupled, in AdamW's units: each step also subtracts weight_decay * parameter times what
        stands in for AdamW's learning rate, 0.01 * learned step size * lr. Useful values are AdamW's, 0.01
        to 0.1.
      weights: a bundled name, a path to a .safetensors file, or θ itself, as in `celo.celo`.
      nonfinite: what a step does whose gradient or loss is not finite: "repair", "hold", "skip" or "shrink",
        with counters in the groups (`celo.guard_nonfinite` says what they mean). None is "repair" without
        counters.
      plateau: a share of the horizon (0.5) at which the schedule waits for `cool_down`.
      min_rms: a tensor counts as at least this large in the length of its step. None: what the weights say.
      per_layer: how many leading axes of each tensor count tensors, which are then treated apart: stacked
        experts or heads.
      orthogonalize: whether the steps of matrices are orthogonalised: along their momentum where the weights
        have that (`log_matrix_step`), else the rule's. None: as the weights say.
        A convolution's kernel [out, in, …] counts as a matrix [out, in · …].
      maximize: climb instead.
      foreach: False computes one tensor after another, which takes less memory and, for small tensors, more
        time; without effect on the native kernel.
      kernel: what computes. "auto" is C++ ("native") on a CPU with a compiler (it is compiled at its first
        use), Triton ("triton") on a GPU that it supports, else PyTorch's own operations ("eager"). Those
        three ask for one.
      capturable: accepted as others' is; steps never wait for the device.
      average_loss: whether the loss is averaged over the processes of `torch.distributed`.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: for an option out of its range, weights that do not fit, or complex parameters.

    Warns:
      OutOfRangeWarning: once, if `num_steps` or the model is far outside what the weights were trained on.

    References:
      Moudgil, Knyazev, Lajoie, Belilovsky, "Celo: Training Versatile Learned Optimizers on a Compute Diet",
      arXiv 2501.12670.
    """

    def __init__(
        self,
        params: Any,
        num_steps: int,
        *,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        weights: WeightsLike = "celo",
        nonfinite: str | None = None,
        plateau: float | None = None,
        min_rms: float | None = None,
        per_layer: int = 0,
        orthogonalize: bool | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        kernel: str = "auto",
        capturable: bool = True,
        average_loss: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        bound = bind(weights, (CELO_RULE, CELO_SCHEDULE))
        super().__init__(
            params,
            bound,
            _rule_steps.options(lr, weight_decay, per_layer, maximize, foreach, capturable, kernel)
            | {"min_rms": min_rms, "orthogonalize": orthogonalize},
            schedule=_schedule.init(bound.theta[SCHEDULE], num_steps, plateau),
            nonfinite=nonfinite,
            average_loss=average_loss,
            differentiable=differentiable,
            fused=fused,
        )


class CeloRule(_RuleOptimizer):
    """Celo's update rule under a schedule of yours: for loops that have no loss or no horizon.

    >>> import celo.torch, torch
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = celo.torch.CeloRule(model.parameters())
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> model(torch.ones(4, 3)).square().mean().backward()
    >>> optimizer.step(); scheduler.step()

    Args:
      params: as in `Celo`; so are the others.
      lr: at 1 a step is about 0.01 of each tensor's root mean square; the learned schedule, which this
        replaces, falls from about (1000 / num_steps)^0.5 to zero.
      weight_decay: as in `Celo`.
      weights: a bundled name, a path, or θ itself; the rule's part is enough.
      nonfinite: as in `Celo`.
      min_rms: as in `Celo`.
      per_layer: as in `Celo`.
      orthogonalize: as in `Celo`.
      maximize: as in `Celo`.
      foreach: as in `Celo`.
      kernel: as in `Celo`.
      capturable: as in `Celo`.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: as `Celo`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        *,
        weight_decay: float = 0.0,
        weights: WeightsLike = "celo",
        nonfinite: str | None = None,
        min_rms: float | None = None,
        per_layer: int = 0,
        orthogonalize: bool | None = None,
        maximize: bool = False,
        foreach: bool | None = None,
        kernel: str = "auto",
        capturable: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            bind(weights, (CELO_RULE,)),
            _rule_steps.options(lr, weight_decay, per_layer, maximize, foreach, capturable, kernel)
            | {"min_rms": min_rms, "orthogonalize": orthogonalize},
            schedule=None,
            nonfinite=nonfinite,
            average_loss=False,
            differentiable=differentiable,
            fused=fused,
        )
