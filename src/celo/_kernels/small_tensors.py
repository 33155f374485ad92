"""A learned rule for all small tensors of a model at once, whatever their shapes.

It computes what `rule_network.tensor_update` computes, to rounding, tensors lying in blocks (`blocks`). Only
sums over rows and columns, and what is broadcast from them, are compiled for each shape: a model of a hundred
tensors compiles in about the time of one.

A tensor with fewer than two axes has one second moment in the places of row and column: it is a row that is
as long as the tensor, and broadcasts to itself.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from celo._definitions import (
    CLIPPED_GRADIENT,
    FACTORED_DECAYS,
    FACTORED_FLOOR,
    FIRST_ROW,
    INPUTS,
    MOMENTUM_DECAYS,
    RMS_FLOOR,
    STEP_SCALE,
    RuleNetwork,
    factored_axes,
)
from celo._kernels.blocks import SIZE, Blocks, in_blocks, num_blocks, taken_out
from celo._kernels.rule_network import RuleTensor, network
from celo._kernels.stacking import hidden
from celo._kernels.statistics import TensorStats, ema, finite_gradient, inverse_root
from celo._types import Array

CHUNK = 1 << 9  # blocks that are computed at a time
LARGEST = 1 << 13  # elements of a tensor; of larger ones copies cost more than compiling another program
MANY = 4  # shapes
ROW, COL, VECTOR = range(3)  # what a factored second moment is
_FACTORED_INPUTS = {ROW: ("row", "inverse_row"), COL: ("col", "inverse_col")}


def chosen(rule: RuleNetwork, params: Sequence[Array], layers: Sequence[int]) -> list[int]:
    """Numbers of the leaves, whose first `layers` axes count tensors, that are computed here.

    None on several devices, which they might be split over; nor tensors whose matrices are normalised apart.
    A few shapes compile as fast by themselves, and take less memory.
    """
    if jax.device_count() > 1:
        return []
    shapes = [param.shape[axes:] for param, axes in zip(params, layers, strict=True)]
    small = [
        n
        for n, shape in enumerate(shapes)
        if params[n].size > 0 and math.prod(shape) <= LARGEST and not (rule.matrices_apart and len(shape) > 2)
    ]
    return small if len({shapes[n] for n in small}) >= MANY else []


class _Layout(NamedTuple):
    """Where the tensors lie, those of one shape one after another."""

    shapes: list[tuple[int, ...]]  # of each run of tensors
    whole: Blocks  # its runs are of `shapes`
    factors: Blocks  # rows of all shapes, then columns of those that have any
    kinds: list[int]  # of each run of factors
    columns: dict[int, int]  # number of a run -> number of the run of its columns


def tensor_updates(
    rule: RuleNetwork,
    theta: dict[str, Array],
    tensors: Sequence[RuleTensor],
    layers: Sequence[int],
    min_rms: float | Array,
) -> list[tuple[Array, TensorStats]]:
    """One step for each of many small tensors.

    Args:
      rule: which network.
      theta: its weights.
      tensors: statistics, gradients and parameters.
      layers: how many leading axes of each count tensors.
      min_rms: as in `rule_network.tensor_update`.
    """
    order = sorted(range(len(tensors)), key=lambda n: tensors[n][2].shape[layers[n] :])
    ordered, axes = [tensors[n] for n in order], [layers[n] for n in order]
    layout = _layout(ordered, axes)
    grad, param, moments, factors = _gathered(ordered, axes, layout)
    grad = finite_gradient(grad)
    now = _factors_now(jnp.square(grad) + FACTORED_FLOOR, layout)
    factors = _emas(factors, now, FACTORED_DECAYS)
    of_factors = _of_factors(rule, theta, factors, layout)
    step, moments = _steps(rule, theta, grad, param, moments, of_factors, layout, min_rms)
    results = _scattered(step, moments, factors, ordered, axes, layout)
    back = dict(zip(order, results, strict=True))
    return [back[n] for n in range(len(tensors))]


def _layout(tensors: Sequence[RuleTensor], layers: Sequence[int]) -> _Layout:
    counts: dict[tuple[int, ...], int] = {}
    for (_, _, param), axes in zip(tensors, layers, strict=True):
        shape = param.shape[axes:]
        counts[shape] = counts.get(shape, 0) + math.prod(param.shape[:axes])
    shapes = list(counts)
    of_rows, of_columns = [], {}
    for number, shape in enumerate(shapes):
        row, col = _factor_shapes(shape)
        of_rows.append((counts[shape], math.prod(row)))
        if col is not None:
            of_columns[number] = (counts[shape], math.prod(col))
    kinds = [ROW if number in of_columns else VECTOR for number in range(len(shapes))]
    sizes = tuple((counts[shape], math.prod(shape)) for shape in shapes)
    return _Layout(
        shapes,
        Blocks(sizes, multiple=max(2, -(-Blocks(sizes).total // CHUNK))),
        Blocks((*of_rows, *of_columns.values())),
        [*kinds, *[COL] * len(of_columns)],
        {number: len(shapes) + n for n, number in enumerate(of_columns)},
    )


def _factor_shapes(shape: tuple[int, ...]) -> tuple[tuple[int, ...], tuple[int, ...] | None]:
    """The shapes of a tensor's row and column, as in `TensorStats`."""
    axes = factored_axes(shape)
    if axes is None:
        return shape, None
    row, col = (tuple(1 if k == axis else n for k, n in enumerate(shape)) for axis in axes)
    return row, col


def _gathered(
    tensors: Sequence[RuleTensor], layers: Sequence[int], layout: _Layout
) -> tuple[Array, Array, list[Array], Array]:
    """Gradients, parameters and each moment [blocks, SIZE], factors [3, blocks of them, SIZE]."""

    counts = [math.prod(param.shape[:axes]) for (_, _, param), axes in zip(tensors, layers, strict=True)]
    matrices = [n for n, (_, _, param) in enumerate(tensors) if param.ndim - layers[n] >= 2]

    def tables(arrays: Sequence[Array], which: Sequence[int] = range(len(tensors))) -> list[Array]:
        return [x.astype(jnp.float32).reshape(counts[n], -1) for n, x in zip(which, arrays, strict=True)]

    stats = [stats for stats, _, _ in tensors]
    moments = [[s.momenta[k] for s in stats] for k in range(len(MOMENTUM_DECAYS))]
    moments.append([s.second_moment for s in stats])
    factors = [
        [*tables([s.row[k] for s in stats]), *tables([stats[n].col[k] for n in matrices], matrices)]
        for k in range(len(FACTORED_DECAYS))
    ]
    return (
        in_blocks(layout.whole, tables([grad for _, grad, _ in tensors])),
        in_blocks(layout.whole, tables([param for _, _, param in tensors])),
        [in_blocks(layout.whole, tables(arrays)) for arrays in moments],
        jnp.stack([in_blocks(layout.factors, arrays, fill=1.0) for arrays in factors]),
    )


def _emas(averages: Array, now: Array, decays: tuple[float, ...]) -> Array:
    """`statistics.ema` of several averages, each with its decay."""
    old = np.array(decays)[:, None, None]  # float64: 1 - 0.999 is not exact enough in float32
    return averages * old.astype(np.float32) + now * (1.0 - old).astype(np.float32)


def _factors_now(squares: Array, layout: _Layout) -> Array:
    """Means of squares over rows and columns, [blocks of factors, SIZE]."""
    rows, cols = [], []
    for number, shape in enumerate(layout.shapes):
        own = layout.whole.run(squares, number)
        axes = factored_axes(shape)
        if axes is None:
            rows.append(own)
            continue
        tensors = own.reshape(-1, *shape)
        for of_all, axis in zip((rows, cols), axes, strict=True):
            of_all.append(jnp.mean(tensors, axis=1 + axis).reshape(len(tensors), -1))
    return in_blocks(layout.factors, [*rows, *cols], fill=1.0)


def _steps(
    rule: RuleNetwork,
    theta: dict[str, Array],
    grad: Array,
    param: Array,
    moments: Sequence[Array],
    of_factors: Array,
    layout: _Layout,
    min_rms: float | Array,
) -> tuple[Array, list[Array]]:
    """(What the network says to each element, [blocks, SIZE]; the new moments).

    Loops over chunks of blocks: they stay in the cache, and what is computed without a loop XLA would compute
    anew for each tensor that is taken out of it. Inputs are computed twice rather than kept: see
    `rule_network.network_step`.
    """
    whole = layout.whole
    names = [
        name for name in rule.matrix_inputs if not any(name in some for some in _FACTORED_INPUTS.values())
    ]
    vectors = [kind == VECTOR for kind in layout.kinds[: len(layout.shapes)]]
    floors = whole.spread(whole.each([(1e-9 - rule.vector_floor) * v for v in vectors]).astype(np.float32))

    begins = jnp.arange(whole.multiple) * (whole.total // whole.multiple)
    always = hidden([1])[0] == 1

    def of_chunk(begin: Array) -> tuple[list[Array], list[Array]]:
        """The preconditioners, and what is added to units."""
        part = jax.lax.dynamic_slice_in_dim(of_factors, begin, whole.total // whole.multiple, axis=1)
        return list(part[: len(FACTORED_DECAYS)]), list(part[len(FACTORED_DECAYS) :])

    def observe(_: None, chunk: tuple[Any, ...]) -> tuple[None, tuple[list[Array], Array]]:
        grad, param, moments, floor, filled, begin = chunk
        factor = of_chunk(begin)[0]
        seen = (*[grad] * len(MOMENTUM_DECAYS), jnp.square(grad))
        decays = (*MOMENTUM_DECAYS, rule.second_moment_decay)
        new = [ema(old, now, decay) for old, now, decay in zip(moments, seen, decays, strict=True)]
        inputs = _inputs(rule, grad, param, new, factor, floor, filled)
        sums = [jnp.sum(jnp.square(x), axis=-1) for name in names for x in inputs[name]]
        return None, (new, jnp.stack(sums))

    def step(_: None, chunk: tuple[Any, ...]) -> tuple[None, Array]:
        grad, param, moments, floor, filled, begin, scales, length = chunk
        factor, units = of_chunk(begin)
        inputs = _inputs(rule, grad, param, moments, factor, floor, filled)
        rows = iter(scales[..., None])
        scaled = {name: [next(rows) for _ in range(INPUTS[name])] for name in names}
        biases = [b + unit for b, unit in zip(theta["b0"], units, strict=True)]
        first: dict[str, Any] = {**theta, "b0": biases}

        def steps() -> Array:
            return length[:, None] * network(first, inputs, scaled)

        # A branch is a program of its own: XLA would compute the network one number at a time if it could
        # join it with the writing of the result.
        return None, jax.lax.cond(always, steps, lambda: jnp.zeros_like(grad))

    def chunks(x: Array, axis: int = 0) -> Array:
        """An array, split along the axis of blocks."""
        shape = (*x.shape[:axis], whole.multiple, -1, *x.shape[axis + 1 :])
        return jnp.moveaxis(x.reshape(shape), axis, 0)

    def whole_again(x: Array) -> Array:
        return x.reshape(-1, SIZE)

    grad, param, moments, floors, filled = jax.tree.map(
        chunks, (grad, param, moments, floors, whole.filled())
    )
    _, (moments, sums) = jax.lax.scan(observe, None, (grad, param, moments, floors, filled, begins))
    mean_squares = whole.means(jnp.moveaxis(sums, 0, 1).reshape(sums.shape[1], -1))
    fed = [
        whole.each([float(name in rule.inputs(1 if vector else 2)) for vector in vectors])
        for name in names
        for _ in range(INPUTS[name])
    ]
    scales = jax.lax.rsqrt(rule.input_floor + mean_squares) * np.stack(fed).astype(np.float32)
    length = jnp.ones_like(mean_squares[0])
    if rule.says_length:
        size = jnp.sqrt(mean_squares[names.index("param")] + RMS_FLOOR)
        length = STEP_SCALE * jnp.maximum(size, min_rms)
    of_step = chunks(whole.spread(scales), 1), chunks(whole.spread(length))
    _, steps = jax.lax.scan(step, None, (grad, param, moments, floors, filled, begins, *of_step))
    return whole_again(steps), [whole_again(x) for x in moments]


def _inputs(
    rule: RuleNetwork,
    grad: Array,
    param: Array,
    moments: Sequence[Array],
    factors: Sequence[Array],
    floor: Array,
    filled: Array,
) -> dict[str, list[Array]]:
    """The inputs that vary over a whole tensor, [blocks, SIZE]; zeros where nothing lies."""
    *momenta, second = moments
    inverse_rms = jax.lax.rsqrt(second + rule.second_moment_floor)
    inverse_rms = jnp.where(np.arange(SIZE) < filled[:, None], inverse_rms, 0.0)
    inputs = {
        "grad": [grad],
        "clipped_grad": [jnp.clip(grad, -CLIPPED_GRADIENT, CLIPPED_GRADIENT)],
        "param": [param],
        "momentum": momenta,
        "second_moment": [second],
        "momentum_over_rms": [m * inverse_rms for m in momenta],
        "inverse_rms": [inverse_rms],
        # 1 / sqrt(x + floor), for a factor 1 / sqrt(x)
        "factored_grad": [grad * f * jax.lax.rsqrt(1.0 + floor[:, None] * f * f) for f in factors],
        "grad_over_rms": [grad * inverse_rms],
        "factored_momentum": [m * f for m, f in zip(momenta, factors, strict=True)],
    }
    return {name: inputs[name] for name in inputs if name in rule.matrix_inputs}


def _of_factors(rule: RuleNetwork, theta: dict[str, Array], factors: Array, layout: _Layout) -> Array:
    """What rows and columns give every element, [3 + hidden, blocks, SIZE].

    The first are Adafactor's preconditioner 1/sqrt(second moment), one for each decay; the others what the
    row and column inputs add to each unit of the first layer.
    """
    blocks, kinds = layout.factors, layout.kinds
    kind = blocks.each(kinds)
    vector = (blocks.spread(kind) == VECTOR)[:, None]
    inputs = jnp.concatenate([factors, jax.lax.rsqrt(factors + 1e-8)])
    filled = np.arange(SIZE) < blocks.filled()[:, None]
    measured = jnp.where(filled, jnp.concatenate([factors, jnp.square(inputs)]), 0.0)
    means = blocks.means(jnp.sum(measured, axis=-1))
    divisors = _divisors(factors, means[: len(factors)], layout)
    share = jnp.maximum(factors / divisors, 1e-9)
    preconditioner = jnp.where(vector, inverse_root(factors + rule.vector_floor), jax.lax.rsqrt(share))
    scales = jax.lax.rsqrt(rule.input_floor + means[len(factors) :])
    weights = _weights(rule, theta)[kind] * scales.T[..., None]  # [tensors, inputs, hidden]
    weights = blocks.spread(weights.T)[..., None]  # [hidden, inputs, blocks, 1]
    units = sum(weights[:, k] * inputs[k] for k in range(len(inputs)))
    both = jnp.concatenate([preconditioner, units])

    is_unit = (np.arange(len(both)) >= len(FACTORED_DECAYS))[:, None]
    found = []
    for number, shape in enumerate(layout.shapes):
        row = blocks.run(both, number)
        if number in layout.columns:
            col = blocks.run(both, layout.columns[number])
            of_row, of_col = _factor_shapes(shape)
            assert of_col is not None
            row, col = row.reshape(*row.shape[:2], *of_row), col.reshape(*col.shape[:2], *of_col)
            where = is_unit.reshape(-1, *[1] * (row.ndim - 1))
            row = jnp.where(where, row + col, row * col).reshape(*row.shape[:2], -1)
        found.append(row)
    return in_blocks(layout.whole, found)


def _divisors(factors: Array, means: Array, layout: _Layout) -> Array:
    """What factors are divided by in the preconditioner: rows by their mean over the second factored axis.

    Of a matrix that is the mean of its row, `means` [3, tensors] of factors.
    """
    blocks = layout.factors
    is_row = blocks.each([float(kind == ROW) for kind in layout.kinds]) == 1.0
    divisors = jnp.broadcast_to(blocks.spread(jnp.where(is_row, means + 1e-9, 1.0))[..., None], factors.shape)
    if all(len(shape) <= 2 for shape in layout.shapes):
        return divisors
    found = []
    for number, kind in enumerate(layout.kinds):
        own = blocks.run(divisors, number)
        shape = layout.shapes[number] if kind == ROW else ()
        axes = factored_axes(shape)
        if axes is not None and len(shape) > 2:
            tensors = blocks.run(factors, number).reshape(*own.shape[:2], *_factor_shapes(shape)[0])
            mean = jnp.mean(tensors, axis=2 + axes[1], keepdims=True) + 1e-9
            own = jnp.broadcast_to(mean, tensors.shape).reshape(own.shape)
        found.append(own)
    return in_blocks(blocks, found, fill=1.0)


def _weights(rule: RuleNetwork, theta: dict[str, Array]) -> Array:
    """The first layer's weights of rows, of columns, and of vectors, which are both: [3, inputs, hidden]."""

    def of(kind: int, axes: int) -> Array:
        fed = rule.inputs(axes)
        rows = [
            theta["w0"][FIRST_ROW[name] : FIRST_ROW[name] + INPUTS[name]] * float(name in fed)
            for name in _FACTORED_INPUTS[kind]
        ]
        return jnp.concatenate(rows)

    return jnp.stack([of(ROW, 2), of(COL, 2), of(ROW, 1) + of(COL, 1)])


def _scattered(
    step: Array,
    moments: Sequence[Array],
    factors: Array,
    tensors: Sequence[RuleTensor],
    layers: Sequence[int],
    layout: _Layout,
) -> list[tuple[Array, TensorStats]]:
    """Each tensor's step and statistics."""
    kinds, count = len(FACTORED_DECAYS), len(MOMENTUM_DECAYS)
    leaves = [(param.shape, axes) for (_, _, param), axes in zip(tensors, layers, strict=True)]
    is_matrix = [len(shape) - axes >= 2 for shape, axes in leaves]

    def shaped(which: int) -> list[tuple[tuple[int, ...], int]]:
        """The shapes of rows (0) or columns (1)."""
        return [
            ((*shape[:axes], *(_factor_shapes(shape[axes:])[which] or ())), axes) for shape, axes in leaves
        ]

    columns = [leaf for leaf, matrix in zip(shaped(1), is_matrix, strict=True) if matrix]
    steps, *of_moments = _leaves([step, *moments], leaves)
    of_factors = _leaves(list(factors), [*shaped(0), *columns])
    results = []
    column = itertools.count(len(leaves))
    for n, (stats, _, _) in enumerate(tensors):
        place = next(column) if is_matrix[n] else None
        col = stats.col if place is None else tuple(of_factors[k][place] for k in range(kinds))
        results.append(
            (
                steps[n],
                TensorStats(
                    momenta=tuple(of_moments[k][n] for k in range(count)),
                    second_moment=of_moments[count][n],
                    row=tuple(of_factors[k][n] for k in range(kinds)),
                    col=col,
                ),
            )
        )
    return results


def _leaves(arrays: Sequence[Array], leaves: Sequence[tuple[tuple[int, ...], int]]) -> list[list[Array]]:
    """`taken_out` of each of several arrays, [blocks, SIZE], leaves that lie one after another."""
    lengths = [num_blocks(shape, axes) for shape, axes in leaves]
    begins = hidden((np.cumsum(lengths) - lengths).tolist())
    return [[taken_out(x, begin, *leaf) for begin, leaf in zip(begins, leaves, strict=True)] for x in arrays]
