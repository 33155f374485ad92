"""Trainers that call `step()` themselves: Hugging Face's Trainer, axolotl, timm.

PyTorch Lightning passes a closure that returns the loss, and Accelerate passes closures on, so that they need
nothing of this.
"""

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from celo._errors import CeloError
from celo.torch._celo import Celo
from celo.torch._groups import param_groups

_UNKNOWN = 1000  # steps of an optimizer made before its trainer knows how many it takes


def attach(
    trainer: Any, *, adamw: Mapping[str, Any] | None = None, keep_scheduler: bool = False, **options: Any
) -> None:
    """Lets a Hugging Face `Trainer` (of transformers 5, or of what builds on it) train with `Celo`.

        trainer = Trainer(model, args, train_dataset=dataset)
        celo.torch.attach(trainer)
        trainer.train()

    Each step reads the loss that `training_step` returns, over all of gradient accumulation. The horizon is
    the trainer's number of steps, also where it resumes. The trainer's scheduler becomes "constant", for the
    learned schedule is one; its `learning_rate` and `weight_decay` are not read.

    Args:
      trainer: before `train()`, and without an optimizer of its own.
      adamw: arguments of `param_groups`, where embeddings, heads and vectors are to go to AdamW; {} is its
        defaults, None sends all to Celo.
      keep_scheduler: whether the trainer's scheduler multiplies the learned schedule.
      options: of `Celo`, such as lr, weight_decay or weights.

    Raises:
      CeloError: if the trainer has an optimizer.
    """
    from transformers import TrainerCallback  # pyright: ignore[reportMissingImports]
    from transformers.trainer_utils import SchedulerType  # pyright: ignore[reportMissingImports]

    if trainer.optimizer is not None or trainer.optimizer_cls_and_kwargs is not None:
        raise CeloError("the trainer has an optimizer; make it without one, and call attach before train()")
    made: list[Celo] = []

    def make(model: nn.Module) -> Celo:
        optimizer = _make(model, trainer.args.max_steps, adamw, options)
        made[:] = [optimizer]
        return optimizer

    class KnowsHorizon(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            _set_horizon(made[0], state.max_steps)

    trainer.optimizer_cls_and_kwargs = (lambda: make, {})
    trainer.add_callback(KnowsHorizon())
    _report_losses(trainer, made)
    if not keep_scheduler:
        trainer.args.lr_scheduler_type = SchedulerType.CONSTANT


def register_timm() -> None:
    """Lets `timm.optim.create_optimizer_v2` make "celo", a `Celo`, and "celorule", a `CeloRule`.

        celo.torch.register_timm()
        optimizer = timm.optim.create_optimizer_v2(model, "celo", num_steps=10_000)
        optimizer.step(loss=loss)

    timm's own training script passes no loss to `step()`; "celorule" with a scheduler suits it. For AdamW
    beside it: `param_group_fn=celo.torch.param_groups`.
    """
    from timm.optim._optim_factory import (  # pyright: ignore[reportMissingImports]
        OptimInfo,
        default_registry,
    )

    known = default_registry.list_optimizers()
    for name, cls in (("celo", "Celo"), ("celorule", "CeloRule")):
        if name not in known:
            default_registry.register(
                OptimInfo(
                    name=name,
                    opt_class=f"celo.torch.{cls}",
                    description="Learned optimizer (arXiv 2501.12670)",
                    has_eps=False,
                )
            )


@functools.cache
def axolotl_plugin() -> type:
    """The class that axolotl loads by the name `celo.torch.AxolotlPlugin`; a subclass of its `BasePlugin`."""
    from axolotl.integrations.base import BasePlugin  # pyright: ignore[reportMissingImports]

    class AxolotlPlugin(BasePlugin):
        """Trains with `Celo`: `plugins: [celo.torch.AxolotlPlugin]` in the configuration.

        `optim_args` there are options of `Celo`; its entry `adamw` is as in `attach`. `learning_rate`,
        `weight_decay`, `optimizer` and `lr_scheduler` are not read.
        """

        def create_optimizer(self, cfg: Any, trainer: Any) -> Celo:
            """The optimizer, which from now on hears of the trainer's losses."""
            options = dict(getattr(cfg, "optim_args", None) or {})
            optimizer = _make(trainer.model, trainer.args.max_steps, options.pop("adamw", None), options)
            _report_losses(trainer, [optimizer])
            return optimizer

        def create_lr_scheduler(
            self, cfg: Any, trainer: Any, optimizer: Any, num_training_steps: int
        ) -> torch.optim.lr_scheduler.LRScheduler:
            """A constant one; tells the optimizer its horizon."""
            _set_horizon(getattr(optimizer, "optimizer", optimizer), num_training_steps)
            return torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)

    return AxolotlPlugin


def _make(
    model: nn.Module, num_steps: int, adamw: Mapping[str, Any] | None, options: Mapping[str, Any]
) -> Celo:
    if adamw is None:
        params = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    else:
        params = param_groups(model, **adamw)
    return Celo(params, num_steps if num_steps > 0 else _UNKNOWN, **options)


def _set_horizon(optimizer: Celo, num_steps: int) -> None:
    if optimizer.param_groups[0]["schedule_num_steps"].item() != num_steps:
        optimizer.set_horizon(num_steps)


def _report_losses(trainer: Any, made: list[Celo]) -> None:
    """Hands on what `training_step` returns: of each of n parts of a step, the nth part of a loss."""
    training_step = trainer.training_step

    @functools.wraps(training_step)
    def reporting(*args: Any, **kwargs: Any) -> Tensor:
        loss = training_step(*args, **kwargs)
        made[0].report_loss(loss * trainer.current_gradient_accumulation_steps)
        return loss

    trainer.training_step = reporting
