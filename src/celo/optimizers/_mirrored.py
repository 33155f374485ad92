"""First weights of the update rule from which meta-training finds its way."""

import jax.numpy as jnp

from celo._kernels.rule_network import HIDDEN
from celo._types import Array


def mirrored(theta: dict[str, Array]) -> dict[str, Array]:
    """Fresh weights of the rule, rearranged so that its direction begins as a linear function of the inputs.

    Units come in pairs of opposite sign, relu(x) and relu(-x), whose difference is x: the looks-linear
    initialisation of Balduzzi et al. (arXiv 1702.08591). Steps uphill and downhill then are alike from the
    start. With four units a layer a plain beginning often has none that can point one of the two ways but the
    bias, and training does not find its way out of that (results/LOG.md).

    Args:
      theta: what `UpdateRule.init_theta` gives under "update_rule".

    Returns:
      The same names and shapes; biases and the magnitude's weights are as they were.
    """
    half = HIDDEN // 2
    inputs = theta["w0"][:, :half]
    between = jnp.eye(half) + 0.5 * theta["w1"][:half, :half]
    direction = jnp.full((half,), 0.5)
    return {
        **theta,
        "w0": jnp.concatenate([inputs, -inputs], axis=1),
        "w1": jnp.block([[between, -between], [-between, between]]),
        "w2": theta["w2"].at[:, 0].set(jnp.concatenate([direction, -direction])),
    }
