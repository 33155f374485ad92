"""Trainers that call `step()` themselves: Hugging Face's Trainer, axolotl, timm.

PyTorch Lightning passes a closure that returns the loss, and Accelerate passes closures on, so that they need
nothing of this.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from celo._errors import CeloError, unknown_name
from celo.torch._base import LearnedOptimizer
from celo.torch._celo import Celo, CeloRule
from celo.torch._celo2 import Celo2, Celo2Base
from celo.torch._celo_adam import CeloAdam
from celo.torch._groups import param_groups
from celo.torch._velo import VeLO

_OPTIMIZERS = {cls.__name__: cls for cls in (Celo, CeloRule, CeloAdam, Celo2, Celo2Base, VeLO)}
_SCHEDULED = ("Celo", "CeloAdam", "VeLO")  # those that read the loss, and end at a horizon
_UNKNOWN = 1000  # steps of an optimizer made before its trainer knows how many it takes


def attach(
    trainer: Any,
    *,
    optimizer: str = "Celo",
    adamw: Mapping[str, Any] | None = None,
    keep_scheduler: bool = False,
    **options: Any,
) -> None:
    """Lets a Hugging Face `Trainer` (of transformers 5, or of what builds on it) train with `Celo`.

        trainer = Trainer(model, args, train_dataset=dataset)
        celo.torch.attach(trainer)
        trainer.train()

    Each step reads the loss that `training_step` returns, over all of gradient accumulation. The horizon is
    the trainer's number of steps, also where it resumes. The trainer's scheduler becomes "constant", for the
    learned schedule is one; its `learning_rate` and `weight_decay` are not read.

    `Celo2`, `Celo2Base` and `CeloRule` read neither loss nor horizon, and need nothing of this: hand them to
    the trainer, whose scheduler they follow.

        groups = celo.torch.celo2_param_groups(model)
        optimizer = celo.torch.Celo2(groups, lr=1e-3, weights="celo2.safetensors")
        trainer = Trainer(model, args, train_dataset=dataset, optimizers=(optimizer, None))

    Args:
      trainer: before `train()`, and without an optimizer of its own.
      optimizer: "Celo", "CeloAdam" or "VeLO".
      adamw: arguments of `param_groups`, where embeddings, heads and vectors are to go to AdamW; {} is its
        defaults, None sends all to the learned optimizer.
      keep_scheduler: whether the trainer's scheduler multiplies the learned schedule.
      options: of the optimizer, such as lr, weight_decay or weights.

    Raises:
      CeloError: if the trainer has an optimizer, or `optimizer` is none of the three.
    """
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
    from transformers.trainer_utils import SchedulerType  # pyright: ignore[reportMissingImports]

    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise CeloError("the trainer has an optimizer; make it without one, and call attach before train()")
    _check_scheduled(optimizer)
    made: list[LearnedOptimizer] = []

    def make(model: nn.Module) -> LearnedOptimizer:
        made[:] = [_make(optimizer, model, trainer.args.max_steps, adamw, options)]
        return made[0]

    class KnowsHorizon(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _set_horizon(made[0], state.max_steps)

    trainer.optimizer_cls_and_kwargs = (lambda: make, {})
    trainer.add_callback(KnowsHorizon())
    _report_losses(trainer, made)
    if not keep_scheduler:
        trainer.args.lr_scheduler_type = SchedulerType.CONSTANT


def register_timm() -> None:
    """Lets `timm.optim.create_optimizer_v2` make all optimizers of `celo.torch` by their lower-case names.

        celo.torch.register_timm()
        optimizer = timm.optim.create_optimizer_v2(model, "celo", num_steps=10_000)
        optimizer.step(loss=loss)

    timm's own training script passes no loss to `step()`: "celorule", "celo2" and "celo2base" suit it, under
    a scheduler. For AdamW beside them: `param_group_fn=celo.torch.param_groups`; for Celo2's Adam:
    `celo2_param_groups`.
    """
    from timm.optim._optim_factory import (  # pyright: ignore[reportMissingImports]
        OptimInfo,
        default_registry,
    )

    known = default_registry.list_optimizers()
    for name, cls in _OPTIMIZERS.items():
        if name.lower() not in known:
            default_registry.register(
                OptimInfo(
                    name=name.lower(),
                    opt_class=cls,
                    description=(cls.__doc__ or "").partition("\n")[0],
                    has_eps=False,
                )
            )


@functools.cache
def axolotl_plugin() -> type:
    """The class that axolotl loads by the name `celo.torch.AxolotlPlugin`; a subclass of its `BasePlugin`."""
    from axolotl.integrations.base import BasePlugin  # pyright: ignore[reportMissingImports]

    class AxolotlPlugin(BasePlugin):
        """Trains with `Celo`: `plugins: [celo.torch.AxolotlPlugin]` in the configuration.

        `optim_args` there are options of `Celo`; its entries `optimizer` ("CeloAdam", "VeLO") and `adamw` are
        as in `attach`. `learning_rate`, `weight_decay`, `optimizer` and `lr_scheduler` are not read.
        """

        def create_optimizer(self, cfg: Any, trainer: Any) -> LearnedOptimizer:
            """The optimizer, which from now on hears of the trainer's losses."""
            options = dict(getattr(cfg, "optim_args", None) or {})
            name, adamw = options.pop("optimizer", "Celo"), options.pop("adamw", None)
            _check_scheduled(name)
            optimizer = _make(name, trainer.model, trainer.args.max_steps, adamw, options)
            _report_losses(trainer, [optimizer])
            return optimizer

        def create_lr_scheduler(
            self, cfg: Any, trainer: Any, optimizer: Any, num_training_steps: int
        ) -> torch.optim.lr_scheduler.LRScheduler:
            """A constant one; tells the optimizer its horizon."""
            _set_horizon(getattr(optimizer, "optimizer", optimizer), num_training_steps)
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    return AxolotlPlugin


def _check_scheduled(name: str) -> None:
    if name in _OPTIMIZERS and name not in _SCHEDULED:
        raise CeloError(
            f"{name} reads neither a loss nor a horizon, and needs no adapter: make it, and pass "
            "optimizers=(optimizer, None) to the trainer, whose scheduler it follows"
        )
    if name not in _SCHEDULED:
        raise unknown_name("optimizer for trainers", name, _SCHEDULED)


def _make(
    name: str, model: nn.Module, num_steps: int, adamw: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> LearnedOptimizer:
    if adamw is None:
        params = [(key, p) for key, p in model.named_parameters() if p.requires_grad]
    else:
        params = param_groups(model, **adamw)
    horizon = {"num_steps": num_steps if num_steps > 0 else _UNKNOWN}
    return _OPTIMIZERS[name](params, **horizon, **options)


def _set_horizon(optimizer: LearnedOptimizer, num_steps: int) -> None:
    if optimizer.param_groups[0]["schedule_num_steps"].item() != num_steps:
        optimizer.set_horizon(num_steps)


def _report_losses(trainer: Any, made: list[LearnedOptimizer]) -> None:
    """Hands on what `training_step` returns: of each of n parts of a step, the nth part of a loss."""
    training_step = trainer.training_step

    @functools.wraps(training_step)
    def reporting(*args: Any, **kwargs: Any) -> Tensor:
        loss = training_step(*args, **kwargs)
        made[0].report_loss(loss * trainer.current_gradient_accumulation_steps)
        return loss

    trainer.training_step = reporting
