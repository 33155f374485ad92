"""The network inside Celo's update rule, for one tensor: statistics -> 30 inputs -> 4 -> 4 -> a step.

Each input is divided by its root mean square over the tensor. The first layer is linear, so that division
is folded into its weights, and inputs that vary along one axis only are contracted with the weights
before they are broadcast: no array of 30 inputs is ever made.
"""

from collections.abc import Sequence
from functools import reduce
from operator import add

import jax
import jax.numpy as jnp

from celo._kernels.statistics import TensorStats, inverse_factors
from celo._types import Array

NUM_INPUTS, HIDDEN, NUM_OUTPUTS = 30, 4, 2
MAGNITUDE_SCALE = 1e-3
# Inputs of larger tensors are computed twice rather than kept: they would not stay in a cache.
LARGE = 1 << 16
# Inputs measured together, by what they share: it is kept no longer than for them.
_TOGETHER = ((*range(7), *range(15, 27)), (7, 8, 9, 10, 14), (11, 12, 13), (27, 28, 29))


def network_step(theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array) -> Array:
    """What the network says to one tensor of any shape, as `network` gives it; all float32."""
    if grad.size <= LARGE:
        inputs = network_inputs(stats, grad, param)
        return network(theta, inputs, normalisers(inputs))
    # XLA keeps every array that is used twice, eleven of the tensor's size, unless barriers hide that.
    scale: dict[int, Array] = {}
    for numbers in _TOGETHER:
        inputs = network_inputs(stats, grad, param)
        found = normalisers([inputs[i] for i in numbers])
        stats, grad, param, found = jax.lax.optimization_barrier((stats, grad, param, found))
        scale |= dict(zip(numbers, found, strict=True))
    inputs = network_inputs(stats, grad, param)
    return network(theta, inputs, jnp.stack([scale[i] for i in range(NUM_INPUTS)]))


def normalisers(inputs: Sequence[Array]) -> Array:
    """What each input of a tensor is multiplied by: one over its root mean square; [30]."""
    return jnp.stack([jax.lax.rsqrt(1e-5 + jnp.mean(jnp.square(x))) for x in inputs])


def network(theta: dict[str, Array], inputs: Sequence[Array], scale: Array) -> Array:
    """The rule's network: steps in units of 0.001 of the tensor's root mean square, downhill.

    Args:
      theta: its weights.
      inputs: 30 arrays that broadcast to one shape, as `network_inputs` gives them.
      scale: [30], as `normalisers` gives it.

    Returns:
      Steps of the shape that the inputs broadcast to.
    """
    hidden = _relu(_dense(theta["w0"] * scale[:, None], theta["b0"], inputs))
    hidden = _relu(_dense(theta["w1"], theta["b1"], hidden))
    direction, magnitude = _dense(theta["w2"], theta["b2"], hidden)
    return -direction * jnp.exp(MAGNITUDE_SCALE * magnitude)


def network_inputs(stats: TensorStats, grad: Array, param: Array) -> list[Array]:
    """The rule's 30 inputs for one tensor, in the order of the rows of `w0`, before normalisation.

    Row and column inputs keep their size-1 axis: they broadcast to the tensor. A tensor with fewer than
    two axes has its whole second moment in their places.
    """
    momenta, rows = stats.momenta, stats.row
    inverse_rms = jax.lax.rsqrt(stats.second_moment + 1e-6)
    if grad.ndim < 2:
        cols = rows
        preconditioned_grad = [grad * jax.lax.rsqrt(x + 1e-9) for x in rows]
        preconditioned_momenta = [m * jax.lax.rsqrt(x) for m, x in zip(momenta, rows, strict=True)]
    else:
        cols = stats.col
        factors = [inverse_factors(r, c, grad.shape) for r, c in zip(rows, cols, strict=True)]
        preconditioned_grad = [grad * r * c for r, c in factors]
        preconditioned_momenta = [m * r * c for m, (r, c) in zip(momenta, factors, strict=True)]
    return [
        grad,
        jnp.clip(grad, -0.1, 0.1),
        param,
        *momenta,
        stats.second_moment,
        *(m * inverse_rms for m in momenta),
        inverse_rms,
        *preconditioned_grad,
        grad * inverse_rms,
        *rows,
        *cols,
        *(jax.lax.rsqrt(x + 1e-8) for x in rows),
        *(jax.lax.rsqrt(x + 1e-8) for x in cols),
        *preconditioned_momenta,
    ]


def _dense(weights: Array, biases: Array, inputs: Sequence[Array]) -> list[Array]:
    """A linear layer over lists of arrays, one for each unit.

    Sums of weight * input over separate arrays compile to one vectorised loop; a contraction of stacked
    inputs does not. Inputs of one shape are summed before they are broadcast.
    """
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for k, x in enumerate(inputs):
        by_shape.setdefault(x.shape, []).append(k)

    def total(unit: int) -> Array:
        sums = [reduce(add, [weights[k, unit] * inputs[k] for k in group]) for group in by_shape.values()]
        return reduce(add, sums, biases[unit])

    return [total(unit) for unit in range(weights.shape[1])]


def _relu(units: Sequence[Array]) -> list[Array]:
    return [jax.nn.relu(unit) for unit in units]
