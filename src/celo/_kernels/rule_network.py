"""Learned update rules for one tensor: statistics -> 30 inputs -> 4 -> 4 -> a step, or 8 units for 4.

Celo (arXiv 2501.12670), section 3. For a parameter p, the network's direction d and magnitude s give

    update = -0.001 * d * exp(0.001 * s) * sqrt(mean(p²) + 1e-9)

Celo2 (arXiv 2602.19142) has the direction alone: update = -d. `RuleNetwork` says what else is different.

Each input is divided by its root mean square over the tensor. The first layer is linear, so that division is
folded into its weights, and inputs that vary along one axis only are contracted with the weights before they
are broadcast: no array of 30 inputs is ever made.

This is the JAX form; `rule.cc` computes the same.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import chain
from operator import add

import jax
import jax.numpy as jnp

from celo._definitions import (
    CLIPPED_GRADIENT,
    FACTORED_DECAYS,
    FIRST_ROW,
    INPUTS,
    MAGNITUDE_SCALE,
    MOMENTUM_DECAYS,
    RMS_FLOOR,
    STEP_SCALE,
    RuleNetwork,
)
from celo._kernels.statistics import (
    TensorStats,
    finite_gradient,
    inverse_factors,
    inverse_root,
    rms,
    update_stats,
)
from celo._types import Array

# Inputs of larger tensors are computed twice rather than kept: they would not stay in a cache.
LARGE = 1 << 16
WIDEST = 8  # units of a layer whose sums are written out
BLOCK = 1 << 12  # elements of a tensor that a wide network is computed for at a time
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

RuleTensor = tuple[TensorStats, Array, Array]  # statistics, gradient and parameters of one tensor


def tensor_update(
    rule: RuleNetwork,
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
    min_rms: float | Array,
) -> tuple[Array, TensorStats]:
    """One step for one tensor of any shape with at least one element.

    Args:
      rule: Celo's network, or Celo2's.
      theta: the rule's weights, of `rule.shapes`: w0 [30, hidden], b0 [hidden], …
      stats: the tensor's statistics before `grad`.
      grad: the gradient, any floating dtype; NaN counts as zero.
      param: the parameters, any floating dtype.
      min_rms: a tensor counts as at least this large in the length of its step, if the rule says one.

    Returns:
      (update float32 of the tensor's shape, to be added; new statistics).
    """
    grad = finite_gradient(grad)
    param = param.astype(jnp.float32)
    stats = update_stats(
        stats,
        grad,
        momentum_decays=MOMENTUM_DECAYS,
        second_moment_decay=rule.second_moment_decay,
        factored_decays=FACTORED_DECAYS,
    )
    step = network_step(rule, theta, stats, grad, param)
    if rule.says_length:
        step = STEP_SCALE * jnp.maximum(rms(param, RMS_FLOOR), min_rms) * step
    return step, stats


def network_step(
    rule: RuleNetwork, theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array
) -> Array:
    """What the network says to one tensor of any shape, as `network` gives it; all float32."""
    if grad.size <= LARGE:
        inputs = network_inputs(rule, stats, grad, param)
        return network(theta, inputs, normalisers(rule, inputs))
    # XLA keeps every array that is used twice, eleven of the tensor's size, unless barriers hide that.
    scales: dict[str, list[Array]] = {}
    for names in _TOGETHER:
        inputs = network_inputs(rule, stats, grad, param)
        measured = normalisers(rule, {name: inputs[name] for name in names if name in inputs})
        stats, grad, param, measured = jax.lax.optimization_barrier((stats, grad, param, measured))
        scales |= measured
    return network(theta, network_inputs(rule, stats, grad, param), scales)


def normalisers(rule: RuleNetwork, inputs: RuleInputs) -> dict[str, list[Array]]:
    """What each input of a tensor is multiplied by, one over its root mean square.

    Each is a scalar, or, where matrices of a tensor are normalised by themselves, as the input with its last
    two axes of size 1.
    """

    def over(x: Array) -> tuple[int, ...] | None:
        return (-2, -1) if rule.matrices_apart and x.ndim > 2 else None

    def inverse_rms(x: Array) -> Array:
        mean = jnp.mean(jnp.square(x), axis=over(x), keepdims=over(x) is not None)
        return jax.lax.rsqrt(rule.input_floor + mean)

    return {name: [inverse_rms(x) for x in arrays] for name, arrays in inputs.items()}


def network(theta: dict[str, Array], inputs: RuleInputs, scales: RuleInputs) -> Array:
    """The rule's network: steps downhill, Celo's in units of 0.001 of the tensor's root mean square.

    Args:
      theta: its weights; two columns in the last layer say direction and magnitude, one the direction. The
        rows of the first are all of `INPUTS`, or those that there are.
      inputs: as `network_inputs` gives them.
      scales: as `normalisers` gives them.

    Returns:
      Steps of the shape that the inputs broadcast to.
    """
    names = [name for name in INPUTS if name in inputs]
    rows = [FIRST_ROW[name] + k for name in names for k in range(INPUTS[name])]
    arrays = list(chain.from_iterable(inputs[name] for name in names))
    scale = list(chain.from_iterable(scales[name] for name in names))
    first = theta["w0"] if len(rows) == len(theta["w0"]) else theta["w0"][jnp.array(rows)]
    if all(x.ndim == 0 for x in scale):
        first = first * jnp.stack(scale)[:, None]
    else:
        arrays = [x * by for x, by in zip(arrays, scale, strict=True)]

    def step(*arrays: Array) -> Array:
        hidden = _relu(_dense(first, theta["b0"], arrays))
        hidden = _relu(_dense(theta["w1"], theta["b1"], hidden))
        direction, *magnitude = _dense(theta["w2"], theta["b2"], hidden)
        return -direction * jnp.exp(MAGNITUDE_SCALE * magnitude[0]) if magnitude else -direction

    return _in_blocks(step, *arrays) if first.shape[1] > WIDEST else step(*arrays)


def network_inputs(rule: RuleNetwork, stats: TensorStats, grad: Array, param: Array) -> RuleInputs:
    """The rule's inputs for one tensor by their names in `INPUTS`, before normalisation.

    Row and column inputs keep their size-1 axis: they broadcast to the tensor. A tensor with fewer than
    two axes has its whole second moment in their places, if the rule feeds it those.
    """
    momenta, rows = stats.momenta, stats.row
    inverse_rms = jax.lax.rsqrt(stats.second_moment + rule.second_moment_floor)
    if grad.ndim < 2:
        cols = rows
        factored_grad = [grad * jax.lax.rsqrt(x + 1e-9) for x in rows]
        floored = [x + rule.vector_floor for x in rows]
        factored_momentum = [m * inverse_root(x) for m, x in zip(momenta, floored, strict=True)]
    else:
        cols = stats.col
        factors = [inverse_factors(r, c, grad.shape) for r, c in zip(rows, cols, strict=True)]
        factored_grad = [grad * r * c for r, c in factors]
        factored_momentum = [m * r * c for m, (r, c) in zip(momenta, factors, strict=True)]
    inputs = {
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
    return {name: inputs[name] for name in rule.inputs(grad.ndim)}


def _in_blocks(function: Callable[..., Array], *arrays: Array) -> Array:
    """An element-wise function of arrays that broadcast to one shape, some rows of a large tensor at a time.

    The units of a wide layer are many times the size of the tensor. A block's stay in the cache; and memory
    for all is not asked for, which costs more than the arithmetic. Only on a single CPU: elsewhere rows may
    be on other devices, or the hardware wants all work at once.
    """
    shape = jnp.broadcast_shapes(*(x.shape for x in arrays))
    rows = _rows_of_a_block(shape)
    if rows is None or jax.device_count() > 1 or jax.default_backend() != "cpu":
        return function(*arrays)
    split = {
        k: x.reshape(-1, rows, *x.shape[1:])
        for k, x in enumerate(arrays)
        if x.ndim == len(shape) and len(x) > 1
    }
    blocks = jax.lax.map(lambda block: function(*(block.get(k, x) for k, x in enumerate(arrays))), split)
    return blocks.reshape(shape)


def _rows_of_a_block(shape: tuple[int, ...]) -> int | None:
    """The most rows in equal blocks of `BLOCK` elements or fewer; None of a small tensor, or an odd one."""
    size = math.prod(shape)
    if size < 2 * BLOCK:
        return None
    most = max(1, BLOCK * shape[0] // size)
    rows = next(rows for rows in range(most, 0, -1) if shape[0] % rows == 0)
    return rows if 8 * rows >= most else None


def _dense(weights: Array, biases: Array, inputs: Sequence[Array] | Array) -> Sequence[Array] | Array:
    """A linear layer over arrays of one shape, or that broadcast to one: those of its units, stacked or not.

    Sums of weight * input over separate arrays compile to one vectorised loop; a contraction of stacked
    inputs does not. Inputs of one shape are summed before they are broadcast. Of a wide layer the loop would
    be long, and take minutes to compile: that is a contraction.
    """
    if weights.shape[1] > WIDEST:
        return _wide_layer(weights, biases, inputs)
    by_shape: dict[tuple[int, ...], list[int]] = {}
    for k, x in enumerate(inputs):
        by_shape.setdefault(x.shape, []).append(k)

    def total(unit: int) -> Array:
        sums = [reduce(add, [weights[k, unit] * inputs[k] for k in group]) for group in by_shape.values()]
        return reduce(add, sums, biases[unit])

    return [total(unit) for unit in range(weights.shape[1])]


def _wide_layer(weights: Array, biases: Array, inputs: Sequence[Array] | Array) -> Array:
    """A linear layer over stacked arrays, [inputs, …] to [units, …]: so no array is taken apart in memory."""
    stacked = inputs if isinstance(inputs, jax.Array) else jnp.stack(jnp.broadcast_arrays(*inputs))
    units = jnp.tensordot(weights.T, stacked, 1, precision=jax.lax.Precision.HIGHEST)
    return units + biases.reshape(-1, *[1] * (stacked.ndim - 1))


def _relu(units: Sequence[Array] | Array) -> Sequence[Array] | Array:
    return jax.nn.relu(units) if isinstance(units, jax.Array) else [jax.nn.relu(unit) for unit in units]
