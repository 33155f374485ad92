"""The update rule as a picture: the step of one element against its gradient and momentum, Adam's beside it.

The rule divides each of its inputs by a root mean square over the tensor. The element stands in a real
tensor, whose root mean squares it does not move.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo._definitions import CELO, FACTORED_DECAYS, MOMENTUM_DECAYS, SECOND_MOMENT_DECAY
from celo._kernels import rule_network
from celo._kernels.statistics import TensorStats, ema, rms, update_stats
from celo._types import Array

ADAM_DECAYS = (0.9, 0.999)
AXIS = np.linspace(-3.0, 3.0, 121, dtype=np.float32)  # root mean squares


class RuleMap(NamedTuple):
    """Steps of an element of value zero, whose second moments are its tensor's means.

    `gradients` and `momenta` are in root mean squares over the tensor: of its gradient, and, before that
    gradient, of each of the rule's three momenta, which stand at the same multiple.
    """

    tensor: str  # its name
    gradients: np.ndarray  # [G]
    momenta: np.ndarray  # [M]
    celo: np.ndarray  # [M, G], in thousandths of the tensor's root mean square at step size 1
    adam: np.ndarray  # [M, G], in learning rates


@jax.jit
def rule_map(
    theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array, step: Array
) -> tuple[Array, Array]:
    """`RuleMap.celo` and `RuleMap.adam` for a tensor in training.

    Args:
      theta: weights of the rule.
      stats: the tensor's statistics before `grad`.
      grad: its gradient, float32.
      param: its value, float32.
      step: int32, how many gradients the statistics have seen; for Adam's bias correction.
    """
    after = update_stats(
        stats,
        grad,
        momentum_decays=MOMENTUM_DECAYS,
        second_moment_decay=SECOND_MOMENT_DECAY,
        factored_decays=FACTORED_DECAYS,
    )
    z, g = jnp.meshgrid(jnp.asarray(AXIS), jnp.asarray(AXIS), indexing="ij")
    if param.ndim < 2:  # whose second moments are not factored
        z, g = z.ravel(), g.ravel()
    g = g * rms(grad, 0.0)
    element = TensorStats(
        momenta=tuple(
            ema(z * rms(m, 0.0), g, decay) for m, decay in zip(stats.momenta, MOMENTUM_DECAYS, strict=True)
        ),
        **{
            name: jax.tree.map(lambda x: jnp.full(z.shape, jnp.mean(x)), getattr(after, name))
            for name in ("second_moment", "row", "col")
        },
    )
    celo = rule_network.network(
        CELO,
        theta,
        rule_network.network_inputs(CELO, element, g, jnp.zeros_like(g)),
        rule_network.input_sizes(CELO, rule_network.network_inputs(CELO, after, grad, param)),
    )
    first, second = (1.0 - decay ** (step.astype(jnp.float32) + 1.0) for decay in ADAM_DECAYS)
    adam = -(element.momenta[0] / first) * jax.lax.rsqrt(element.second_moment / second)
    return celo.reshape(len(AXIS), len(AXIS)), adam.reshape(len(AXIS), len(AXIS))
