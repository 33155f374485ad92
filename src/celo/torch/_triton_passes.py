"""The passes of Celo's update rule over tensors on a GPU, in Triton's language; `_triton` calls them.

A tensor is seen as [A, a, M, b, I] with a and b its factored axes, as `rule.cc` explains. A program works on
a block of a, b and I. What it sums is stored for each block, and added up afterwards. Where the tensors lie
is in a table of addresses, so that those of one shape need not be side by side.

No argument of a kernel may be named params, specialization or options: they are variables of the function
that Triton writes to call it.
"""

import math

import triton  # pyright: ignore[reportMissingImports]
import triton.language as tl  # pyright: ignore[reportMissingImports]

from celo._definitions import (
    CELO,
    CLIPPED_GRADIENT,
    FACTORED_FLOOR,
    FIRST_ROW,
    GRADIENT_LIMIT,
    INPUTS,
    MAGNITUDE_SCALE,
    NUM_INPUTS,
)

_LIMIT, _CLIP = tl.constexpr(GRADIENT_LIMIT), tl.constexpr(CLIPPED_GRADIENT)
_FLOOR, _MAGNITUDE = tl.constexpr(CELO.second_moment_floor), tl.constexpr(MAGNITUDE_SCALE)
_FACTORED_FLOOR, _INPUTS = tl.constexpr(FACTORED_FLOOR), tl.constexpr(NUM_INPUTS)
_WEIGHTS = tl.constexpr(sum(math.prod(shape) for shape in CELO.shapes.values()) + 1)

# Inputs whose squares the first pass sums, in that order: of all tensors, and of those without factors.
PLAIN = (
    *("grad", "clipped_grad", "param", "second_moment", "inverse_rms", "grad_over_rms"),
    *("momentum", "momentum_over_rms"),
)
OF_VECTORS = ("factored_grad", "factored_momentum", "row", "inverse_row")
# Rows of the first layer.
_GRAD, _CLIPPED, _PARAM = (tl.constexpr(FIRST_ROW[name]) for name in PLAIN[:3])
_SECOND, _INVERSE_RMS, _GRAD_OVER_RMS = (tl.constexpr(FIRST_ROW[name]) for name in PLAIN[3:6])
_MOMENTUM, _MOMENTUM_OVER_RMS = (tl.constexpr(FIRST_ROW[name]) for name in PLAIN[6:])
_FACTORED_GRAD, _FACTORED_MOMENTUM = (tl.constexpr(FIRST_ROW[name]) for name in OF_VECTORS[:2])
_ROW, _COL = tl.constexpr(FIRST_ROW["row"]), tl.constexpr(FIRST_ROW["col"])
_INVERSE_ROW, _INVERSE_COL = tl.constexpr(FIRST_ROW["inverse_row"]), tl.constexpr(FIRST_ROW["inverse_col"])
_NUM_PLAIN, _NUM_OF_VECTORS = (
    tl.constexpr(sum(INPUTS[name] for name in names)) for names in (PLAIN, OF_VECTORS)
)


@triton.jit
def _place(size, outer, a, middle, b, inner, A: tl.constexpr, B: tl.constexpr, INNER: tl.constexpr):
    """(tensor, tile along a, along b; of a block's elements [A, B, INNER] which are there, all and by axis;
    their places in the tensor, in its moments averaged over a and over b, and in the means of rows)."""
    tiles_a, tiles_b, tiles_i = tl.cdiv(a, A), tl.cdiv(b, B), tl.cdiv(inner, INNER)
    program = tl.program_id(0)
    tile_i, tile_b = program % tiles_i, program // tiles_i % tiles_b
    tile_a = program // (tiles_i * tiles_b) % tiles_a
    place = program // (tiles_i * tiles_b * tiles_a)
    m, o, tensor = place % middle, place // middle % outer, place // (middle * outer)
    on_a = (tile_a * A + tl.arange(0, A))[:, None, None]
    on_b = (tile_b * B + tl.arange(0, B))[None, :, None]
    on_i = (tile_i * INNER + tl.arange(0, INNER))[None, None, :]
    there_a, there_b, there_i = on_a < a, on_b < b, on_i < inner
    at = (((o * a + on_a) * middle + m) * b + on_b) * inner + on_i
    across = ((o * middle + m) * b + on_b) * inner + on_i
    along = ((o * a + on_a) * middle + m) * inner + on_i
    mean = (o * middle + m) * inner + on_i
    there = there_a & there_b & there_i
    return (
        tensor,
        tile_a,
        tile_b,
        there,
        there_b & there_i,
        there_a & there_i,
        there_i,
        at,
        across,
        along,
        mean,
    )


@triton.jit
def _at(places, which, n, tensor, ALIGNED: tl.constexpr):
    """Where a tensor's gradient (0), value, second moment or one of three momenta (3, 4, 5) begins."""
    first = tl.load(places + which * n + tensor).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        first = tl.multiple_of(first, 16)
    return first


@triton.jit
def _clean(grad):
    grad = tl.where(grad == grad, grad, 0.0)  # NaN counts as zero
    return tl.minimum(tl.maximum(grad, -_LIMIT), _LIMIT)


@triton.jit
def _clipped(grad):
    return tl.minimum(tl.maximum(grad, -_CLIP), _CLIP)


@triton.jit
def _put_squares(sums, number, values):
    tl.store(sums + number, tl.sum(values * values))


@triton.jit
def _row_and_col(ROW_ALONG: tl.constexpr, along, across):
    if ROW_ALONG:
        return along, across
    else:
        return across, along


@triton.jit
def _factor(row, col, mean, there_row, there_col, there_mean):
    """1 / root of the second moment as its factors have it; all are pointers."""
    row = tl.load(row, mask=there_row, other=1.0)
    col = tl.load(col, mask=there_col, other=1.0)
    mean = tl.load(mean, mask=there_mean, other=1.0)
    return tl.rsqrt(tl.maximum(row / (mean + 1e-9), 1e-9)) * tl.rsqrt(tl.maximum(col, 1e-9))


@triton.jit
def observe(
    places,
    row,
    rates,
    plain,
    sum_across,
    sum_along,
    n,
    size,
    outer,
    a,
    middle,
    b,
    inner,
    A: tl.constexpr,
    B: tl.constexpr,
    INNER: tl.constexpr,
    FACTORED: tl.constexpr,
    ROW_ALONG: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """Takes gradients into momenta, second moments, and the rows of tensors without factors; by block, sums
    of squares of inputs into `plain`, and sums over a and over b of squared gradients."""
    place = _place(size, outer, a, middle, b, inner, A, B, INNER)
    tensor, tile_a, tile_b, there, there_across, there_along, _, at, across, along, _ = place
    plain += tl.program_id(0).to(tl.int64) * (_NUM_PLAIN if FACTORED else _NUM_PLAIN + _NUM_OF_VECTORS)
    grad = _clean(tl.load(_at(places, 0, n, tensor, ALIGNED) + at, mask=there, other=0.0))
    param = tl.load(_at(places, 1, n, tensor, ALIGNED) + at, mask=there, other=0.0)
    square = grad * grad
    at_second = _at(places, 2, n, tensor, ALIGNED) + at
    second = tl.load(at_second, mask=there, other=0.0)
    second += tl.load(rates + 3) * (square - second)
    tl.store(at_second, second, mask=there)
    inverse_rms = tl.where(there, tl.rsqrt(second + _FLOOR), 0.0)
    _put_squares(plain, 0, grad)
    _put_squares(plain, 1, _clipped(grad))
    _put_squares(plain, 2, param)
    _put_squares(plain, 3, second)
    _put_squares(plain, 4, inverse_rms)
    _put_squares(plain, 5, grad * inverse_rms)
    for k in tl.static_range(3):
        which = (k * n + tensor).to(tl.int64)
        at_momentum = _at(places, 3 + k, n, tensor, ALIGNED) + at
        momentum = tl.load(at_momentum, mask=there, other=0.0)
        momentum += tl.load(rates + k) * (grad - momentum)
        tl.store(at_momentum, momentum, mask=there)
        _put_squares(plain, 6 + k, momentum)
        _put_squares(plain, 9 + k, momentum * inverse_rms)
        if not FACTORED:
            where = row + which * size + at
            moment = tl.load(where, mask=there, other=1.0)
            moment += tl.load(rates + 4 + k) * (square + _FACTORED_FLOOR - moment)
            tl.store(where, moment, mask=there)
            _put_squares(plain, 12 + k, grad * tl.rsqrt(moment + 1e-9))
            _put_squares(plain, 15 + k, momentum * tl.rsqrt(moment))
            _put_squares(plain, 18 + k, tl.where(there, moment, 0.0))
            _put_squares(plain, 21 + k, tl.where(there, tl.rsqrt(moment + 1e-8), 0.0))
    if FACTORED:
        tiles_a, tiles_b = tl.cdiv(a, A), tl.cdiv(b, B)
        sum_across += (tensor * tiles_a + tile_a).to(tl.int64) * (outer * middle * b * inner)
        sum_along += (tensor * tiles_b + tile_b).to(tl.int64) * (outer * a * middle * inner)
        tl.store(sum_across + across, tl.sum(square, axis=0, keep_dims=True), mask=there_across)
        tl.store(sum_along + along, tl.sum(square, axis=1, keep_dims=True), mask=there_along)


@triton.jit
def normalise(
    places,
    row,
    col,
    means,
    sums,
    n,
    size,
    outer,
    a,
    middle,
    b,
    inner,
    A: tl.constexpr,
    B: tl.constexpr,
    INNER: tl.constexpr,
    FACTORED: tl.constexpr,
    ROW_ALONG: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """By block, sums of squares of the factored gradients and momenta of tensors that have factors."""
    place = _place(size, outer, a, middle, b, inner, A, B, INNER)
    tensor, _, _, there, there_across, there_along, there_mean, at, across, along, mean = place
    at_row, at_col = _row_and_col(ROW_ALONG, along, across)
    there_row, there_col = _row_and_col(ROW_ALONG, there_along, there_across)
    rows, cols = _row_and_col(ROW_ALONG, outer * a * middle * inner, outer * middle * b * inner)
    sums += tl.program_id(0).to(tl.int64) * 6
    grad = _clean(tl.load(_at(places, 0, n, tensor, ALIGNED) + at, mask=there, other=0.0))
    for k in tl.static_range(3):
        which = (k * n + tensor).to(tl.int64)
        factor = _factor(
            row + which * rows + at_row,
            col + which * cols + at_col,
            means + which * (outer * middle * inner) + mean,
            there_row,
            there_col,
            there_mean,
        )
        momentum = tl.load(_at(places, 3 + k, n, tensor, ALIGNED) + at, mask=there, other=0.0)
        _put_squares(sums, k, grad * factor)
        _put_squares(sums, 3 + k, momentum * factor)


@triton.jit
def _enter(h0, h1, h2, h3, network, number, value):
    """The first layer with one input more."""
    w = network + 4 * number
    return (
        h0 + tl.load(w) * value,
        h1 + tl.load(w + 1) * value,
        h2 + tl.load(w + 2) * value,
        h3 + tl.load(w + 3) * value,
    )


@triton.jit
def _unit(h0, h1, h2, h3, layer, unit, OUTPUTS: tl.constexpr):
    """A unit of a layer of so many, whose biases follow its weights, from the layer before after its relu."""
    bias = tl.load(layer + 4 * OUTPUTS + unit)
    from_0 = tl.load(layer + unit) * tl.maximum(h0, 0.0)
    from_1 = tl.load(layer + OUTPUTS + unit) * tl.maximum(h1, 0.0)
    from_2 = tl.load(layer + 2 * OUTPUTS + unit) * tl.maximum(h2, 0.0)
    from_3 = tl.load(layer + 3 * OUTPUTS + unit) * tl.maximum(h3, 0.0)
    return bias + from_0 + from_1 + from_2 + from_3


@triton.jit
def step(
    places,
    row,
    col,
    means,
    networks,
    steps,
    n,
    size,
    outer,
    a,
    middle,
    b,
    inner,
    A: tl.constexpr,
    B: tl.constexpr,
    INNER: tl.constexpr,
    FACTORED: tl.constexpr,
    ROW_ALONG: tl.constexpr,
    ALIGNED: tl.constexpr,
):
    """The network's steps; `networks` have normalisers in their first layer, and a tensor's length last."""
    place = _place(size, outer, a, middle, b, inner, A, B, INNER)
    tensor, _, _, there, there_across, there_along, there_mean, at, across, along, mean = place
    at_row, at_col = _row_and_col(ROW_ALONG, along, across)
    there_row, there_col = _row_and_col(ROW_ALONG, there_along, there_across)
    rows, cols = _row_and_col(ROW_ALONG, outer * a * middle * inner, outer * middle * b * inner)
    network = networks + tensor * _WEIGHTS
    layer = network + 4 * _INPUTS
    grad = _clean(tl.load(_at(places, 0, n, tensor, ALIGNED) + at, mask=there, other=0.0))
    param = tl.load(_at(places, 1, n, tensor, ALIGNED) + at, mask=there, other=0.0)
    second = tl.load(_at(places, 2, n, tensor, ALIGNED) + at, mask=there, other=0.0)
    inverse_rms = tl.rsqrt(second + _FLOOR)
    h0, h1, h2, h3 = tl.load(layer), tl.load(layer + 1), tl.load(layer + 2), tl.load(layer + 3)
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _GRAD, grad)
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _CLIPPED, _clipped(grad))
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _PARAM, param)
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _SECOND, second)
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _INVERSE_RMS, inverse_rms)
    h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _GRAD_OVER_RMS, grad * inverse_rms)
    for k in tl.static_range(3):
        which = (k * n + tensor).to(tl.int64)
        momentum = tl.load(_at(places, 3 + k, n, tensor, ALIGNED) + at, mask=there, other=0.0)
        of_row = tl.load(row + which * rows + at_row, mask=there_row, other=1.0)
        if FACTORED:
            of_col = tl.load(col + which * cols + at_col, mask=there_col, other=1.0)
            grad_factor = _factor(
                row + which * rows + at_row,
                col + which * cols + at_col,
                means + which * (outer * middle * inner) + mean,
                there_row,
                there_col,
                there_mean,
            )
            momentum_factor = grad_factor
        else:
            of_col = of_row
            grad_factor, momentum_factor = tl.rsqrt(of_row + 1e-9), tl.rsqrt(of_row)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _MOMENTUM + k, momentum)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _MOMENTUM_OVER_RMS + k, momentum * inverse_rms)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _FACTORED_GRAD + k, grad * grad_factor)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _FACTORED_MOMENTUM + k, momentum * momentum_factor)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _ROW + k, of_row)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _COL + k, of_col)
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _INVERSE_ROW + k, tl.rsqrt(of_row + 1e-8))
        h0, h1, h2, h3 = _enter(h0, h1, h2, h3, network, _INVERSE_COL + k, tl.rsqrt(of_col + 1e-8))
    layer += 4
    u0, u1 = _unit(h0, h1, h2, h3, layer, 0, 4), _unit(h0, h1, h2, h3, layer, 1, 4)
    u2, u3 = _unit(h0, h1, h2, h3, layer, 2, 4), _unit(h0, h1, h2, h3, layer, 3, 4)
    layer += 4 * 4 + 4
    direction, magnitude = _unit(u0, u1, u2, u3, layer, 0, 2), _unit(u0, u1, u2, u3, layer, 1, 2)
    length = tl.load(layer + 4 * 2 + 2)
    tl.store(
        steps + tensor.to(tl.int64) * size + at,
        -direction * tl.exp(magnitude * _MAGNITUDE) * length,
        mask=there,
    )
