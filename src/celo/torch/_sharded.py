"""What a step works on: whole tensors, also of parameters that are sharded (DTensors)."""

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

import torch
import torch.distributed as dist
from torch import Tensor

from celo._errors import CeloError

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor, Placement


class Work(NamedTuple):
    """A parameter's part in a step; all but the parameter itself are whole tensors of one device."""

    param: Tensor
    value: Tensor
    grad: Tensor  # sign and dtype as wanted
    state: dict[str, Tensor]  # updated in place


def workloads(work: list[Work]) -> Iterator[list[Work]]:
    """All that lie here whole; then those that are sharded, one at a time, and afterwards sharded again."""
    yield [item for item in work if not is_sharded(item.param)]
    for param, value, grad, state in work:
        if is_sharded(param):
            gathered = {name: whole(x) for name, x in state.items()}
            yield [Work(param, whole(value), whole(grad), gathered)]
            for name, x in gathered.items():
                state[name].copy_(placed(x, state[name]))


def is_sharded(x: Any) -> "TypeGuard[DTensor]":
    """Whether a tensor is a DTensor; their module, which is slow, is not imported where there are none."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(x, module.DTensor)


def whole(x: Tensor) -> Tensor:
    """The whole tensor, gathered from all processes if it is sharded."""
    return x.full_tensor() if is_sharded(x) else x


def local(x: Tensor) -> Tensor:
    """What of a tensor lies in this process."""
    return x.to_local() if is_sharded(x) else x


def zeros(shape: tuple[int, ...], param: Tensor) -> Tensor:
    """A tensor of a parameter's state, sharded like it where it is as large, or a stack of as large ones."""
    if is_sharded(param) and (placements := _placements(shape, param)):
        from torch.distributed import tensor

        return tensor.zeros(shape, dtype=torch.float32, device_mesh=param.device_mesh, placements=placements)
    return torch.zeros(shape, dtype=torch.float32, device=param.device)


def placed(value: Tensor, like: Tensor) -> Tensor:
    """`value`, sharded or whole and the same in all processes, placed as `like` is."""
    if not is_sharded(like):
        return whole(value)
    if not is_sharded(value):
        from torch.distributed.tensor import DTensor, Replicate

        value = DTensor.from_local(value, like.device_mesh, [Replicate()] * like.device_mesh.ndim)
    return value.redistribute(like.device_mesh, like.placements)


def mean_over_processes(value: Tensor, device: torch.device) -> Tensor:
    """A scalar averaged over the processes of `torch.distributed`, if there are several, on their device."""
    if not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1):
        return value
    mean = value.to(device, copy=True)
    dist.all_reduce(mean)
    return mean / dist.get_world_size()


def check(param: Tensor) -> None:
    """Refuses parameters that do not have the shape of the tensor they stand for.

    Raises:
      CeloError: for those of FSDP1.
    """
    if getattr(param, "_fsdp_flattened", False) or getattr(param, "_is_flat_param", False):
        raise CeloError(
            "parameters of FullyShardedDataParallel are flattened, and a learned rule needs their shapes; "
            "use torch.distributed.fsdp.fully_shard"
        )


def _placements(shape: tuple[int, ...], param: "DTensor") -> "list[Placement] | None":
    """The parameter's, for a tensor of its shape or a stack of such; None where all processes keep the whole.

    These are tensors of other shapes, and of parameters that two axes of processes shard along one axis.
    """
    from torch.distributed.tensor import Replicate, Shard

    before = len(shape) - param.dim()
    if before not in (0, 1) or tuple(shape[before:]) != tuple(param.shape):
        return None
    if not all(type(x) in (Replicate, Shard) for x in param.placements):
        return None
    return [Shard(x.dim + before) if isinstance(x, Shard) else x for x in param.placements]
