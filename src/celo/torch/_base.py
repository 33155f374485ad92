"""What every learned optimizer in PyTorch shares: losses, the schedule, groups, state, saving and restoring.

All that changes is in tensors: a parameter's in `state[parameter]`, schedule and counters in `param_groups`,
the same in all groups, so that they are saved and moved as any optimizer's. No step waits for the device.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from celo._errors import CeloError, unknown_name
from celo._limits import check_rate, check_steps
from celo.torch import _adam, _kernel, _nonfinite, _schedule, _sharded, _updates
from celo.torch._sharded import Work, workloads
from celo.torch._weights import SCHEDULE, BoundWeights

RULES = ("learned", "adamw")

_SCHEDULE = "schedule_"  # entries of param_groups that are the schedule's state begin so
_PARTICULAR = ("adam", "adam_multiplier", "min_rms", "orthogonalize")  # options that not all have


class LearnedOptimizer(Optimizer):
    """The base of all optimizers here; it says what is common to them.

    A subclass gives `_state_shapes`, `_steps` and its options, and `_advance` if its schedule is not Celo's.
    A parameter that is sharded (a DTensor, of `fully_shard` or tensor parallelism) is stepped whole: each
    process gathers one tensor at a time with its gradient and state, computes the same step, and keeps its
    shard. What is as large as the parameter lies sharded as it does; the small rest is on every process.
    """

    def __init__(
        self,
        params: Any,
        weights: BoundWeights,
        options: dict[str, Any],
        *,
        schedule: _schedule.State | None,
        nonfinite: str | None,
        average_loss: bool,
        differentiable: bool,
        fused: bool | None,
    ):
        if differentiable:
            raise CeloError("differentiable=True: only celo.celo in JAX can be differentiated through")
        if fused:
            raise CeloError("fused=True: there is no fused form; leave it out")
        options = options | {"rule": "learned"}
        self._check_options(options)
        counters = _nonfinite.init(nonfinite)
        self._weights = weights
        self._theta_on: dict[torch.device, dict[str, dict[str, Tensor]]] = {}
        self._nonfinite = nonfinite
        self._average_loss = average_loss
        self._reported: list[Tensor] = []
        if schedule is not None:
            remedy = "celo.torch.CeloRule with a scheduler of torch.optim"
            weights.trained.check_horizon(int(schedule["num_steps"]), remedy)
        shared = {_SCHEDULE + name: value for name, value in (schedule or {}).items()} | counters
        self._shared = tuple(shared)
        super().__init__(params, options | shared | {"differentiable": False})
        weights.trained.check_size(sum(p.numel() for group in self.param_groups for p in group["params"]))

    # ---------------------------------------------------------------------- what a subclass says

    _decay_unit: float  # what stands for AdamW's learning rate, in whose units decay is, at a step size of 1
    _trained_rate: float | None = 1.0  # the learning rate of meta-training; None where it is to be tuned

    def _state_shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        """The tensors of a parameter's state, float32."""
        raise NotImplementedError

    def _first_values(self) -> dict[str, Tensor]:
        """What of it is not zero before the first gradient, without axes that are a parameter's."""
        return {}

    def _steps(
        self, group: dict[str, Any], work: list[Work], taken: float | Tensor
    ) -> Iterable[tuple[Work, Tensor]]:
        """(work, learned step in float32 to be added) of parameters of one device; updates their states.

        Args:
          group: their options.
          work: the parameters, none of them empty.
          taken: 1 where statistics take the gradients in, 0 where they stay as they are.
        """
        raise NotImplementedError

    def _advance(
        self, schedule: _schedule.State, loss: Tensor, work: list[Work], moves: float | Tensor
    ) -> tuple[float | Tensor, _schedule.State]:
        """(what all learned steps are multiplied by, the schedule's new state); asked where there is one.

        Args:
          schedule: the state.
          loss: a scalar.
          work: all parameters that take learned steps now, before they do.
          moves: 0 where all is to stay as it is.
        """
        del work, moves  # Celo's scheduler looks at the loss alone
        return _schedule.advance(self._theta(loss.device)[SCHEDULE], schedule, loss)

    # ---------------------------------------------------------------------- the step

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Any = None) -> Any:  # type: ignore[override]
        """Updates all parameters that have a gradient.

        Args:
          closure: evaluates the model again and returns the loss, as for any optimizer of PyTorch.
          loss: the training loss, a scalar tensor or a number. It goes before the closure's, and that before
            what was handed to `report_loss`.

        Returns:
          What the closure returned; None without one.

        Raises:
          CeloError: if the optimizer reads the loss and there is none; for sparse gradients.
        """
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        value = self._loss(loss, returned)
        gather: Any = self._work
        if torch.compiler.is_compiling():  # it would be bound to these very gradients, and compile each step
            gather = torch.compiler.disable(gather)
        work = [gather(group) for group in self.param_groups]
        if not (grads := [item.grad for of_group in work for item in of_group]):
            return returned
        self._bring_shared_to(grads[0].device)
        good, guard = _nonfinite.judge(self._nonfinite, self.param_groups[0], grads, value)
        factor = guard
        if self._schedule_there:
            assert value is not None
            factor = guard * self._advance_schedule(value.to(grads[0].device), good, work)
        for group, of_group in zip(self.param_groups, work, strict=True):
            self._step_group(group, of_group, good, guard if group["rule"] == "adamw" else factor)
        return returned

    def _work(self, group: dict[str, Any]) -> list[Work]:
        """What of a group has a gradient, its state beside it."""
        found = []
        for p in filter(lambda p: p.grad is not None, group["params"]):
            _check_gradient(p.grad)
            self._prepare(group, p)
            found.append(Work(p, p, -p.grad if group["maximize"] else p.grad, self.state[p]))
        return found

    def _step_group(
        self, group: dict[str, Any], work: list[Work], good: float | Tensor, factor: float | Tensor
    ) -> None:
        steps = _adam.adamw_steps if group["rule"] == "adamw" else self._steps
        by_device: dict[torch.device, list[Work]] = {}
        for item in work:
            if item.value.numel():
                by_device.setdefault(item.value.device, []).append(item)
        for device, of_device in by_device.items():
            taken, scale = _on(good, device), _on(factor, device) * _on(group["lr"], device)
            decay = group["weight_decay"] * scale * (1.0 if group["rule"] == "adamw" else self._decay_unit)
            for load in workloads(of_device):
                _updates.add(group, steps(group, load, taken), taken, scale, decay)

    def report_loss(self, loss: Any) -> None:
        """Tells the next step its training loss, for loops that call `step()` themselves.

        Several before one step are averaged, as gradient accumulation averages their gradients.

        Args:
          loss: a scalar tensor or a number.
        """
        self._reported.append(_scalar(loss))

    def _loss(self, explicit: Any, returned: Any) -> Tensor | None:
        """The loss of this step as a float32 scalar, averaged over processes."""
        reported = self._reported
        if reported:  # PyTorch 2.11 could not compile the assignment
            self._reported = []
        if not self._schedule_there and self._nonfinite is None:
            return None
        if explicit is not None:
            value = _scalar(explicit)
        elif returned is not None:
            value = _scalar(returned)
        elif reported:
            value = torch.stack([x.to(reported[-1].device) for x in reported]).mean()
        elif not self._schedule_there:
            return None
        else:
            raise CeloError(
                f"{type(self).__name__} reads the training loss, and this step has none: call "
                "step(loss=loss), step(closure), or report_loss(loss) before step(). Where there is no loss, "
                "use celo.torch.CeloRule with a scheduler of torch.optim.lr_scheduler"
            )
        if self._average_loss:
            value = _sharded.mean_over_processes(value, self.param_groups[0]["params"][0].device)
        return value

    # ---------------------------------------------------------------------- the schedule

    @property
    def _schedule_there(self) -> bool:
        return _SCHEDULE + "clock" in self._shared

    def _schedule_state(self) -> dict[str, Tensor]:
        group = self.param_groups[0]
        return {
            name.removeprefix(_SCHEDULE): group[name] for name in self._shared if name.startswith(_SCHEDULE)
        }

    def _advance_schedule(self, loss: Tensor, good: float | Tensor, work: list[list[Work]]) -> float | Tensor:
        learned = [
            item
            for group, of_group in zip(self.param_groups, work, strict=True)
            for item in of_group
            if group["rule"] != "adamw" and item.value.numel()
        ]
        moves = good if self._nonfinite == "hold" else 1.0
        old = self._schedule_state()
        factor, new = self._advance(old, loss, learned, moves)
        if isinstance(moves, Tensor):
            new = {name: torch.where(moves > 0, new[name], old[name]) for name in old}
        self._keep_schedule(new)
        return factor

    def _keep_schedule(self, new: dict[str, Tensor]) -> None:
        for name, tensor in self._schedule_state().items():
            tensor.copy_(new[name])

    def set_horizon(self, num_steps: int) -> None:
        """Lets the learned schedule end at another step, counted from the beginning; as `celo.with_horizon`.

        Raises:
          CeloError: if `num_steps` is not a positive whole number, or there is no learned schedule.
        """
        self._edit_schedule(lambda state: _schedule.with_horizon(state, check_steps(num_steps)))

    def cool_down(self, num_steps: int) -> None:
        """Lets the schedule leave its plateau and come to its end in `num_steps` steps; as `celo.cool_down`.

        Raises:
          CeloError: if `num_steps` is not a positive whole number, or the schedule has no plateau.
        """
        if self._schedule_there and math.isinf(self._schedule_state()["plateau"].item()):
            raise CeloError("there is no plateau to leave; make the optimizer with plateau=0.5")
        self._edit_schedule(lambda state: _schedule.cooling_down(state, check_steps(num_steps)))

    @torch.no_grad()
    def _edit_schedule(self, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> None:
        if not self._schedule_there:
            raise CeloError(f"{type(self).__name__} has no learned schedule; lr alone scales its steps")
        self._keep_schedule(change(self._schedule_state()))

    # ---------------------------------------------------------------------- state

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds parameters with options of their own; they share the schedule of the others.

        Raises:
          CeloError: for complex parameters or options out of range.
        """
        if param_group.get("rule") == "adamw":
            param_group = _adam.ADAMW | param_group
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        try:
            self._check_options(group)
            for name, p in zip(
                group.get("param_names", [None] * len(group["params"])), group["params"], strict=True
            ):
                if not p.is_floating_point():
                    which = f" {name!r}" if name else ""
                    raise CeloError(
                        f"parameters must be real floating-point tensors, got{which} "
                        f"{p.dtype}{list(p.shape)}; keep complex ones as pairs of reals (torch.view_as_real)"
                    )
                _sharded.check(p)
                self.state[p] = self._fresh_state(group, p)
        except Exception:
            for p in self.param_groups.pop()["params"]:
                self.state.pop(p, None)
            raise
        for name in self._shared:
            group[name] = self.param_groups[0][name]

    def _check_options(self, options: dict[str, Any]) -> None:
        if options["rule"] not in RULES:
            raise unknown_name("rule of a group", options["rule"], RULES)
        if "kernel" in options:
            _kernel.check(options["kernel"])
        if options["rule"] != "adamw" and not isinstance(options["lr"], Tensor):
            check_rate(options["lr"], "lr", self._trained_rate)
        for name in ("lr", "weight_decay", "min_rms", "adam_multiplier"):
            value = options.get(name)
            if value is None or isinstance(value, Tensor):
                continue
            if not (math.isfinite(value) and value >= 0):
                raise CeloError(f"{name} must be finite and at least 0, got {value!r}")

    def _shapes(self, group: dict[str, Any], param: Tensor) -> dict[str, tuple[int, ...]]:
        return _adam.state_shapes(param) if group["rule"] == "adamw" else self._state_shapes(group, param)

    def _fresh_state(self, group: dict[str, Any], param: Tensor) -> dict[str, Tensor]:
        state = {name: _sharded.zeros(shape, param) for name, shape in self._shapes(group, param).items()}
        for name, value in self._first_values().items():
            if name in state:
                first = value.to(param.device).expand(state[name].shape)
                state[name].copy_(_sharded.placed(first, state[name]))
        return state

    def _prepare(self, group: dict[str, Any], param: Tensor) -> None:
        """State beside the parameter, wherever that is by now: models are often moved after all is made."""
        state = self.state[param]
        if not state:  # it took another's place: Accelerate shards what the optimizer was made with
            state.update(self._fresh_state(group, param))
            mine = {id(p) for other in self.param_groups for p in other["params"]}
            for gone in [p for p in self.state if id(p) not in mine]:
                del self.state[gone]
        _check_shapes(state, self._shapes(group, param), param)  # a kernel would read past their ends
        if any(value.is_meta and not param.is_meta for value in state.values()):
            state.update(self._fresh_state(group, param))
        for name, value in state.items():
            if value.device != param.device:
                state[name] = value.to(param.device)

    def _bring_shared_to(self, device: torch.device) -> None:
        for name in self._shared:
            value = self.param_groups[0][name]
            if value.device != device:
                value = value.to(device)
                for group in self.param_groups:
                    group[name] = value

    def _theta(self, device: torch.device) -> dict[str, dict[str, Tensor]]:
        if device not in self._theta_on:
            theta = self._weights.theta
            self._theta_on[device] = {
                group: {name: value.to(device) for name, value in arrays.items()}
                for group, arrays in theta.items()
            }
        return self._theta_on[device]

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restores what `state_dict()` gave; statistics stay float32 beside parameters of lower precision.

        Raises:
          CeloError: if the state is that of another optimizer, or of parameters of other shapes.
        """
        loaded: dict[str, Any] = {}
        # Last of the hooks before, which may change what is loaded, and first of those after, which see it.
        handles = (
            self.register_load_state_dict_pre_hook(lambda _, states: loaded.update(states)),
            self.register_load_state_dict_post_hook(lambda _: self._restore(loaded), prepend=True),
        )
        before = self.state, self.param_groups
        try:
            super().load_state_dict(state_dict)
        except Exception:
            self.state, self.param_groups = before
            raise
        finally:
            for handle in handles:
                handle.remove()

    def _restore(self, loaded: dict[str, Any]) -> None:
        """The loaded state as it was saved: PyTorch casts it to the parameters' dtypes."""
        for group, saved in zip(self.param_groups, loaded["param_groups"], strict=True):
            telling = ("rule", *_nonfinite.COUNTERS, *_PARTICULAR)
            theirs = {name for name in saved if name in telling or name.startswith(_SCHEDULE)}
            ours = {"rule", *self._shared, *(name for name in _PARTICULAR if name in self.defaults)}
            if odd := sorted(theirs ^ ours):
                raise CeloError(
                    f"the state has {'' if odd[0] in theirs else 'no '}{odd[0]!r}: it was saved by another "
                    f"optimizer than {type(self).__name__}, or with other options; make the same one"
                )
            for index, p in zip(saved["params"], group["params"], strict=True):
                self._restore_one(group, p, loaded["state"].get(index, {}))
        first = self.param_groups[0]
        for name in self._shared:
            for holder in (*self.param_groups, self.defaults):
                holder[name] = first[name]

    def _restore_one(self, group: dict[str, Any], param: Tensor, saved: dict[str, Any]) -> None:
        fresh = self._fresh_state(group, param)
        if saved:
            _check_shapes(saved, self._shapes(group, param), param)
        self.state[param] = fresh
        for name, value in saved.items():
            fresh[name].copy_(_sharded.placed(value.detach().to(param.device, torch.float32), fresh[name]))

    def __getstate__(self) -> dict[str, Any]:
        mine = ("_weights", "_nonfinite", "_average_loss", "_reported", "_shared")
        return super().__getstate__() | {name: getattr(self, name) for name in mine} | {"_theta_on": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)

    def __repr__(self) -> str:
        lines = [
            f"  {name}: {value}"
            for group in self.param_groups[:1]
            for name, value in sorted(group.items())
            if name not in self._shared and name not in ("params", "param_names")
        ]
        sizes = [sum(p.numel() for p in group["params"]) for group in self.param_groups]
        groups = ", ".join(f"{size:,}" for size in sizes)
        return "\n".join([f"{type(self).__name__} (parameters by group: {groups}", *lines, ")"])


def _check_shapes(state: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], param: Tensor) -> None:
    found = {name: tuple(getattr(value, "shape", ())) for name, value in state.items()}
    if found != expected:
        raise CeloError(
            f"the state of a parameter {list(param.shape)} has {found}, expected {dict(expected)}: it is of "
            "another model or optimizer; begin with a fresh state, or restore the same model"
        )


def _check_gradient(grad: Tensor) -> None:
    if grad.layout is not torch.strided:
        raise CeloError(
            f"the gradient of a parameter {list(grad.shape)} is sparse, and learned rules read every "
            "element; use nn.Embedding(sparse=False)"
        )


def _scalar(loss: Any) -> Tensor:
    value = (
        _sharded.whole(loss.detach())
        if isinstance(loss, Tensor)
        else torch.as_tensor(loss, dtype=torch.float32)
    )
    if value.numel() != 1:
        raise CeloError(f"the loss must be a scalar, got shape {list(value.shape)}; pass its mean")
    return value.reshape(()).float()


def _on(value: float | Tensor, device: torch.device) -> Any:
    return value.to(device) if isinstance(value, Tensor) else value
