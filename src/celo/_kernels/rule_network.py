"""Celo's update rule for one tensor: statistics -> 30 inputs -> 4 -> 4 -> a step.

Celo (arXiv 2501.12670), section 3. For a parameter p, the network's direction d and magnitude s give

    update = -0.001 * d * exp(0.001 * s) * sqrt(mean(p²) + 1e-9)

Each input is divided by its root mean square over the tensor. The first layer is linear, so that division is
folded into its weights, and inputs that vary along one axis only are contracted with the weights before they
are broadcast: no array of 30 inputs is ever made.

This is the JAX form; `rule.cc` computes the same.
"""

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import add

import jax
import jax.numpy as jnp

from celo._definitions import (
    CLIPPED_GRADIENT,
    FACTORED_DECAYS,
    INPUT_FLOOR,
    INPUTS,
    MAGNITUDE_SCALE,
    MOMENTUM_DECAYS,
    RMS_FLOOR,
    SECOND_MOMENT_DECAY,
    STEP_SCALE,
)
from celo._kernels.statistics import TensorStats, finite_gradient, inverse_factors, rms, update_stats
from celo._types import Array

# Inputs of larger tensors are computed twice rather than kept: they would not stay in a cache.
LARGE = 1 << 16
# Inputs measured together, by the arrays they share: those are kept no longer than for them.
_TOGETHER = (
    (
        "grad",
        "clipped_grad",
        "param",
        "momentum",
        "second_moment",
        "row",
        "col",
        "inverse_row",
        "inverse_col",
    ),
    ("momentum_over_rms", "inverse_rms", "grad_over_rms"),
    ("factored_grad",),
    ("factored_momentum",),
)

RuleInputs = Mapping[
    str, Sequence[Array]
]  # name of `INPUTS` -> that many arrays, which broadcast to one shape


def tensor_update(
    theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array, min_rms: float | Array
) -> tuple[Array, TensorStats]:
    """One step for one tensor of any shape with at least one element.

    Args:
      theta: the rule's weights: w0 [30, 4], b0 [4], w1 [4, 4], b1 [4], w2 [4, 2], b2 [2].
      stats: the tensor's statistics before `grad`.
      grad: the gradient, any floating dtype; NaN counts as zero.
      param: the parameters, any floating dtype.
      min_rms: a tensor counts as at least this large in the length of its step.

    Returns:
      (update float32 of the tensor's shape, to be added; new statistics).
    """
    grad = finite_gradient(grad)
    param = param.astype(jnp.float32)
    stats = update_stats(
        stats,
        grad,
        momentum_decays=MOMENTUM_DECAYS,
        second_moment_decay=SECOND_MOMENT_DECAY,
        factored_decays=FACTORED_DECAYS,
    )
    step = network_step(theta, stats, grad, param)
    return STEP_SCALE * jnp.maximum(rms(param, RMS_FLOOR), min_rms) * step, stats


def network_step(
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
    *,
    names: Sequence[str] = tuple(INPUTS),
    vector_floor: float = 0.0,
) -> Array:
    """What the network says to one tensor of any shape, as `network` gives it; all float32.

    Args:
      theta: its weights.
      stats: the tensor's statistics, `grad` among them.
      grad: the gradient, finite.
      param: the parameters.
      names: the inputs that it has, in the order of the rows of `w0`.
      vector_floor: as in `network_inputs`.
    """

    def inputs_now() -> RuleInputs:
        inputs = network_inputs(stats, grad, param, vector_floor)
        return {name: inputs[name] for name in names}

    if grad.size <= LARGE:
        return network(theta, inputs_now(), normalisers(inputs_now()))
    # XLA keeps every array that is used twice, eleven of the tensor's size, unless barriers hide that.
    scales: dict[str, Array] = {}
    for together in _TOGETHER:
        inputs = inputs_now()
        measured = {name: _inverse_rms_of(inputs[name]) for name in together if name in inputs}
        stats, grad, param, measured = jax.lax.optimization_barrier((stats, grad, param, measured))
        scales |= measured
    return network(theta, inputs_now(), jnp.concatenate([scales[name] for name in names]))


def normalisers(inputs: RuleInputs) -> Array:
    """What each input of a tensor is multiplied by: one over its root mean square; [number of inputs]."""
    return _inverse_rms_of(_in_order(inputs))


def _inverse_rms_of(arrays: Sequence[Array]) -> Array:
    return jnp.stack([jax.lax.rsqrt(INPUT_FLOOR + jnp.mean(jnp.square(x))) for x in arrays])


def _in_order(inputs: RuleInputs) -> list[Array]:
    """The arrays in the order of the rows of `w0`."""
    return list(chain.from_iterable(inputs.values()))


def network(theta: dict[str, Array], inputs: RuleInputs, scale: Array) -> Array:
    """The rule's network: steps in units of 0.001 of the tensor's root mean square, downhill.

    Args:
      theta: its weights.
      inputs: as `network_inputs` gives them, in the order of the rows of `w0`.
      scale: [number of inputs], as `normalisers` gives it.

    Returns:
      Steps of the shape that the inputs broadcast to.
    """
    hidden = _relu(_dense(theta["w0"] * scale[:, None], theta["b0"], _in_order(inputs)))
    hidden = _relu(_dense(theta["w1"], theta["b1"], hidden))
    direction, magnitude = _dense(theta["w2"], theta["b2"], hidden)
    return -direction * jnp.exp(MAGNITUDE_SCALE * magnitude)


def network_inputs(stats: TensorStats, grad: Array, param: Array, vector_floor: float = 0.0) -> RuleInputs:
    """The rule's 30 inputs for one tensor by their names in `INPUTS` and in that order, not normalised.

    Row and column inputs keep their size-1 axis: they broadcast to the tensor. A tensor with fewer than
    two axes has its whole second moment in their places; `vector_floor` is added to it where it divides the
    momenta, which Celo does not do.
    """
    momenta, rows = stats.momenta, stats.row
    inverse_rms = jax.lax.rsqrt(stats.second_moment + 1e-6)
    if grad.ndim < 2:
        cols = rows
        factored_grad = [grad * jax.lax.rsqrt(x + 1e-9) for x in rows]
        factored_momentum = [m * jax.lax.rsqrt(x + vector_floor) for m, x in zip(momenta, rows, strict=True)]
    else:
        cols = stats.col
        factors = [inverse_factors(r, c, grad.shape) for r, c in zip(rows, cols, strict=True)]
        factored_grad = [grad * r * c for r, c in factors]
        factored_momentum = [m * r * c for m, (r, c) in zip(momenta, factors, strict=True)]
    return {
        "grad": [grad],
        "clipped_grad": [jnp.clip(grad, -CLIPPED_GRADIENT, CLIPPED_GRADIENT)],
        "param": [param],
        "momentum": momenta,
        "second_moment": [stats.second_moment],
        "momentum_over_rms": [m * inverse_rms for m in momenta],
        "inverse_rms": [inverse_rms],
        "factored_grad": factored_grad,
        "grad_over_rms": [grad * inverse_rms],
        "row": rows,
        "col": cols,
        "inverse_row": [jax.lax.rsqrt(x + 1e-8) for x in rows],
        "inverse_col": [jax.lax.rsqrt(x + 1e-8) for x in cols],
        "factored_momentum": factored_momentum,
    }


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
