"""Celo2 in PyTorch: a learned direction of one length in all tensors (arXiv 2602.19142).

`celo.optimizers._celo2` has the mathematics. A convolution's kernel is [out, in, …] here, and its matrices
are in the first two axes, one for each place, where JAX has them in the last two.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from celo._definitions import (
    CELO2,
    CELO2_ADAM_DECAYS,
    CELO2_ADAM_FLOOR,
    CELO2_ADAM_MULTIPLIER,
    CELO2_DIRECTION_FLOOR,
    CELO2_STEP,
    MUON,
)
from celo._errors import CeloError
from celo.torch import _adam, _kernel, _native, _rule, _rule_steps
from celo.torch._base import LearnedOptimizer
from celo.torch._orthogonal import factor
from celo.torch._sharded import Work
from celo.torch._weights import CELO2_RULE, RULE, WeightsLike, bind


class _Celo2Optimizer(LearnedOptimizer):
    """An optimizer whose steps are directions of Celo2's rule. Groups may say what Adam takes."""

    _decay_unit = 1.0
    _trained_rate = None

    def _state_shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        shapes = _rule_steps.state_shapes(group, param)
        if "adam" in group and "adam" not in self.defaults:
            raise CeloError(f"{type(self).__name__} has no Adam: leave adam= out of its groups, or use Celo2")
        if group["kernel"] == "triton":
            raise CeloError(f"{type(self).__name__} has no Triton kernel; use kernel='auto'")
        return _adam.state_shapes(param) if _is_adams(group, param) else shapes

    def _steps(
        self, group: dict[str, Any], work: list[Work], taken: float | Tensor
    ) -> Iterator[tuple[Work, Tensor]]:
        of_rule = []
        for item in work:
            if _is_adams(group, item.value):
                yield item, _adam_step(item, taken, group["adam_multiplier"])
            else:
                of_rule.append(item)
        if of_rule:
            network = _rule.pack(self._theta(of_rule[0].value.device)[RULE])
            batches = _rule_steps.take_steps(CELO2, network, group, of_rule, taken)
            for batch, steps in _orthogonalized(group, batches):
                yield from _rule_steps.divided(batch, _unit(steps), group)


def _is_adams(group: dict[str, Any], param: Tensor) -> bool:
    """Whether Adam takes a tensor.

    Raises:
      CeloError: if the group says neither yes, no nor None.
    """
    adam = group.get("adam", False)  # of Celo2-base there is no such option
    if adam is None:
        return param.dim() - group["per_layer"] < 2
    if not isinstance(adam, bool):
        raise CeloError(f"adam must be True, False or None (vectors alone), got {adam!r}")
    return adam


def _adam_step(item: Work, taken: float | Tensor, multiplier: float | Tensor) -> Tensor:
    grad = _rule.unclipped_gradient(item.grad)
    first, second = _adam.update_moments(item.state, grad, taken, CELO2_ADAM_DECAYS)
    return -multiplier * first * torch.rsqrt(second + CELO2_ADAM_FLOOR)


def _orthogonalized(
    group: dict[str, Any], batches: Iterator[_rule_steps.Batch]
) -> Iterator[_rule_steps.Batch]:
    """The steps, those of matrices orthogonalised; where the native kernel does that, all in one call."""
    done, matrices = [], []
    for batch, steps in batches:
        wanted = group.get("orthogonalize", False) and steps.dim() > 2
        native = _kernel.chosen(group["kernel"], steps.device) == "native"
        if wanted:  # [n, rows, columns, *places] as [n, *places, rows, columns]
            stack = steps.movedim((1, 2), (-2, -1))
            stack = stack.contiguous() if native else factor(stack, MUON)
            steps = stack.movedim((-2, -1), (1, 2))
            if native:
                matrices.append(stack.view(-1, *stack.shape[-2:]))
        if native:
            done.append((batch, steps))
        else:
            yield batch, steps
    if matrices:
        _native.orthogonalize(matrices, None, MUON)
    yield from done


def _unit(steps: Tensor) -> Tensor:
    """Steps [n, *S] over their root mean squares, each matrix by itself."""
    over = (1, 2) if steps.dim() > 2 else 1
    mean_square = steps.square().mean(dim=over, keepdim=True)
    return steps * torch.rsqrt(mean_square + CELO2_DIRECTION_FLOOR)


class Celo2(_Celo2Optimizer):
    """Celo2 as a PyTorch optimizer. No weights of it are bundled: convert the published ones.

    >>> import celo, celo.torch, jax, torch
    >>> theta = celo.optimizers.Celo2().init_theta(jax.random.key(0))  # or "celo2.safetensors"
    >>> model = torch.nn.Linear(3, 2)
    >>> optimizer = celo.torch.Celo2(model.parameters(), lr=1e-3, weights=theta, weight_decay=0.1)
    >>> scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    >>> model(torch.ones(4, 3)).square().mean().backward()
    >>> optimizer.step(); scheduler.step()  # it reads no loss

    Args:
      params: parameters, named parameters, or groups of them. Groups may have their own `lr`,
        `weight_decay`, `adam`, `adam_multiplier`, `orthogonalize`, `per_layer` and `maximize`;
        `celo.torch.celo2_param_groups` makes such groups. A group with `rule="adamw"` is AdamW's, as in
        `Celo`.
      lr: the root mean square of each matrix's step. It is tuned as AdamW's: the paper's were 1e-5 to 1e-3,
        under a cosine with warm-up.
      weights: a path to a .safetensors file (`celo convert theta.state celo2.safetensors`), or θ itself.
      weight_decay: decoupled, as AdamW's: each step also subtracts lr * weight_decay * parameter, in the
        tensors of Adam, too.
      adam: the tensors that Adam takes, group by group: True is all, False none, None those of fewer than two
        axes. Embeddings should be among them, and only you can tell which those are.
      adam_multiplier: how many learning rates Adam's is. Its decays are 0.9 and 0.95, without bias
        correction.
      orthogonalize: whether steps of matrices are orthogonalised. Of a tensor with more axes than two those
        are in the first two, as in a convolution's kernel [out, in, …].
      nonfinite: as in `Celo`; so are the others.
      per_layer: how many leading axes of each tensor count tensors.
      maximize: climb instead.
      foreach: False computes one tensor after another.
      kernel: as in `Celo`, without "triton". Tensors of three axes or more whose two longest are not their
        first have no native form: PyTorch's own operations compute them under any name.
      capturable: accepted as others' is.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: for an option out of its range, weights that do not fit, or complex parameters.

    References:
      Celo2, arXiv 2602.19142.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = CELO2_STEP,
        *,
        weights: WeightsLike,
        weight_decay: float = 0.0,
        adam: bool | None = None,
        adam_multiplier: float | Tensor = CELO2_ADAM_MULTIPLIER,
        orthogonalize: bool = True,
        nonfinite: str | None = None,
        per_layer: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        kernel: str = "auto",
        capturable: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        options = _rule_steps.options(lr, weight_decay, per_layer, maximize, foreach, capturable, kernel)
        options |= {"adam": adam, "adam_multiplier": adam_multiplier, "orthogonalize": orthogonalize}
        super().__init__(
            params,
            bind(weights, (CELO2_RULE,)),
            options,
            schedule=None,
            nonfinite=nonfinite,
            average_loss=False,
            differentiable=differentiable,
            fused=fused,
        )


class Celo2Base(_Celo2Optimizer):
    """Celo2-base as a PyTorch optimizer: Celo2's rule for all tensors, and nothing else.

    >>> import celo, celo.torch, jax, torch
    >>> theta = celo.optimizers.Celo2().init_theta(jax.random.key(0))  # fresh weights, not trained
    >>> optimizer = celo.torch.Celo2Base(torch.nn.Linear(3, 2).parameters(), lr=1e-3, weights=theta)

    Args:
      params: as in `Celo2`; so are the others.
      lr: the root mean square of each tensor's step.
      weights: Celo2-base's own: it was meta-trained without orthogonalisation.
      weight_decay: decoupled, as AdamW's.
      nonfinite: policy for gradients that are not finite.
      per_layer: for tensors that stack layers.
      maximize: climb instead.
      foreach: False computes one tensor after another.
      kernel: as in `Celo2`.
      capturable: accepted as others' is.
      differentiable: refused.
      fused: refused.

    Raises:
      CeloError: as `Celo2`.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = CELO2_STEP,
        *,
        weights: WeightsLike,
        weight_decay: float = 0.0,
        nonfinite: str | None = None,
        per_layer: int = 0,
        maximize: bool = False,
        foreach: bool | None = None,
        kernel: str = "auto",
        capturable: bool = True,
        differentiable: bool = False,
        fused: bool | None = None,
    ):
        super().__init__(
            params,
            bind(weights, (CELO2_RULE,)),
            _rule_steps.options(lr, weight_decay, per_layer, maximize, foreach, capturable, kernel),
            schedule=None,
            nonfinite=nonfinite,
            average_loss=False,
            differentiable=differentiable,
            fused=fused,
        )
