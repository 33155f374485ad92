"""Steps whose gradient or loss is not finite: `celo.transforms._nonfinite` says what each policy does.

The counters are scalars in an optimizer's `param_groups`; nothing waits for the device.
"""

from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from celo._definitions import DOUBLING_STEPS, POLICIES, SMALLEST_SCALE
from celo._errors import unknown_name
from celo.torch import _sharded

COUNTERS = ("bad_gradients", "bad_losses", "bad_in_a_row", "shrink")


def init(policy: str | None) -> dict[str, Tensor]:
    """The counters before the first step; none without a policy.

    Raises:
      CeloError: for an unknown policy.
    """
    if policy is None:
        return {}
    if policy not in POLICIES:
        raise unknown_name("policy for non-finite numbers", policy, POLICIES)
    counts = {name: torch.zeros((), dtype=torch.int32, device="cpu") for name in COUNTERS[:-1]}
    return counts | {"shrink": torch.ones((), dtype=torch.float32, device="cpu")}


def judge(
    policy: str | None, counters: Mapping[str, Tensor], grads: list[Tensor], loss: Tensor | None
) -> tuple[float | Tensor, float | Tensor]:
    """(1 for a good step and 0 for one taken back, what its length is multiplied by); counts bad ones.

    Args:
      policy: what is done with them.
      counters: as `init` gives them, on the first gradient's device; updated in place.
      grads: at least one; of sharded ones each process looks at its part.
      loss: a scalar, if there is one.
    """
    if policy is None:
        return 1.0, 1.0
    device = grads[0].device
    flags = [torch.isfinite(_sharded.local(g)).all().to(device) for g in grads]
    bad_gradient = ~torch.stack(flags).all()
    if any(_sharded.is_sharded(g) for g in grads):
        anywhere = bad_gradient.int()
        dist.all_reduce(anywhere, dist.ReduceOp.MAX)
        bad_gradient = anywhere.bool()
    bad_loss = torch.zeros_like(bad_gradient) if loss is None else ~torch.isfinite(loss.to(device))
    bad = bad_gradient | bad_loss
    counters["bad_gradients"].add_(bad_gradient)
    counters["bad_losses"].add_(bad_loss)
    counters["bad_in_a_row"].copy_(torch.where(bad, counters["bad_in_a_row"] + 1, 0))
    if policy == "repair":
        return 1.0, 1.0
    good = (~bad).float()
    scale = counters["shrink"].clone()
    if policy == "shrink":
        after = torch.where(bad, scale / 2, scale * 2 ** (1 / DOUBLING_STEPS))
        counters["shrink"].copy_(after.clamp(SMALLEST_SCALE, 1.0))
    return good, good * scale
