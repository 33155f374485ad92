"""Wrappers for any optax transformation: accumulation, non-finite steps, smaller states, labels,
orthogonalised steps, steps by width, shardings; and SOAP, which optax does not have.

Here: what fits an optimizer, learned or not, to a training loop, and what goes into a chain beside it.
Learned optimizers live in `celo.optimizers`, which may use these; nothing here knows one of them.
"""

from celo.transforms._accumulate import accumulate
from celo.transforms._low_precision_state import in_bfloat16
from celo.transforms._mup import mup_scale
from celo.transforms._nonfinite import guard_nonfinite
from celo.transforms._orthogonalize import orthogonalize
from celo.transforms._param_labels import label_params, plan
from celo.transforms._sharding import state_sharding
from celo.transforms._soap import scale_by_soap, soap

__all__ = [
    "accumulate",
    "guard_nonfinite",
    "in_bfloat16",
    "label_params",
    "mup_scale",
    "orthogonalize",
    "plan",
    "scale_by_soap",
    "soap",
    "state_sharding",
]
