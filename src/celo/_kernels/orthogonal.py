"""Orthogonalised steps: a matrix's polar factor U V^T, where U S V^T is its singular value decomposition.

The rule sees one number of a matrix at a time. What its step does to the network is decided by singular
values, of which a few are large and most are small: with all made equal, every direction moves (Muon, Jordan
et al. 2024; Bernstein & Newhouse, arXiv 2409.20325).

For X of k rows or columns, whichever is fewer, and G its Gram matrix of that side, the factor is X G^(-1/2).
Polynomials p(x) = a x + b x³ + c x⁵, one after another, bring singular values from [0.005, 1] to 1 ± 0.084
and multiply smaller ones by about 226. They are the best such (Amsel et al., arXiv 2505.16932, from the
minimax problem solved anew). In the Gram matrix they commute: k³ work each, and two products with X in all
instead of two each. Before, G is divided by ‖G²‖^(1/2) in Frobenius' norm, which is at least its largest
eigenvalue and never above k^(1/4) times that. Celo2 was trained with other polynomials, Muon's, and with G
divided by its trace: they bring singular values above 0.003 of Frobenius' norm to between 0.68 and 1.20, and
multiply smaller ones by up to 485.

This is the JAX form; `orthogonal.cc` computes the same.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from celo._definitions import LARGEST, MUON, POLAR, SMALLEST, PolarIteration, matrix_shape
from celo._layout import result_types
from celo._types import Array


def orthogonalized(
    steps: Sequence[Array], wanted: Sequence[bool], layers: Sequence[int], kernel: str
) -> dict[int, Array]:
    """The steps that are matrices, each replaced by its polar factor of the same root mean square.

    Args:
      steps: of any shapes, float32. A matrix of zeros stays as it is.
      wanted: for each step, whether it is to be orthogonalised if it is a matrix (`matrix_shape`).
      layers: for each step, how many leading axes count matrices.
      kernel: "native" or "xla".

    Returns:
      Index of a step -> what replaces it, of the same shape.
    """
    shapes = {
        i: (*step.shape[: layers[i]], *matrix)
        for i, step in enumerate(steps)
        if wanted[i] and step.size and (matrix := matrix_shape(step.shape, layers[i]))
    }

    def restored(step: Array, of_step: Array, length: Array) -> Array:
        return (of_step * length[..., None, None]).reshape(step.shape)

    def replaced(shape: tuple[int, ...], step: Array) -> Array:
        return restored(step, *polar_factor(step.reshape(shape)))

    if not shapes:
        return {}
    if kernel != "native":
        return {i: _as_whole(partial(replaced, shape), steps[i]) for i, shape in shapes.items()}
    found, lengths = _native(tuple(steps[i].reshape(shape) for i, shape in shapes.items()))
    return {i: restored(steps[i], f, n) for i, f, n in zip(shapes, found, lengths, strict=True)}


def factors(
    matrices: Mapping[int, Array], kernel: str, iteration: PolarIteration = POLAR
) -> dict[int, Array]:
    """Polar factors of the matrices in the last two axes of each tensor.

    Args:
      matrices: tensors of two or more axes, none of size 0, by any keys; float32.
      kernel: "native" or "xla".
      iteration: how they are approximated; `MUON` is as Muon does.

    Returns:
      Factors of the same shapes and keys; a matrix of zeros stays as it is.
    """
    if not matrices:
        return {}
    if kernel != "native":
        return {i: factor(x, iteration) for i, x in matrices.items()}
    found, _ = _native(tuple(matrices.values()), iteration)
    return dict(zip(matrices, found, strict=True))


def factor(x: Array, iteration: PolarIteration = POLAR) -> Array:
    """The polar factor of each matrix in the last two axes, by XLA."""
    return _as_whole(lambda whole: polar_factor(whole, iteration)[0], x)


def _as_whole(function: Callable[[Array], Array], x: Array) -> Array:
    """`function` of an array; one split over an explicit mesh is left to the partitioner."""
    if not is_split(x):
        return function(x)
    auto = jax.sharding.auto_axes(function, out_sharding=jax.typeof(x).sharding)
    return cast(Callable[[Array], Array], auto)(x)


def is_split(x: Array) -> bool:
    """Whether an array is split over explicit axes of a mesh, where JAX asks how each product is split."""
    sharding = jax.typeof(x).sharding
    return any(
        kind is AxisType.Explicit and name in jax.tree.leaves(tuple(sharding.spec))
        for name, kind in zip(sharding.mesh.axis_names, sharding.mesh.axis_types, strict=True)
    )


def polar_factor(x: Array, iteration: PolarIteration = POLAR) -> tuple[Array, Array]:
    """(factor [..., rows, columns], length [...]): the factor times the length is as long as `x`."""
    largest = jnp.max(jnp.abs(x), axis=(-2, -1), keepdims=True)
    usable = (largest >= SMALLEST) & (largest <= LARGEST)
    # Ones in the place of what stays as it is: the root of zero has no derivative.
    scaled = jnp.where(usable, x / jnp.where(usable, largest, 1.0), 1.0)
    tall = x.shape[-2] >= x.shape[-1]
    transposed = jnp.swapaxes(scaled, -2, -1)
    gram = _product(transposed, scaled) if tall else _product(scaled, transposed)
    inverse_root = _inverse_root(gram, iteration)
    factor = _product(scaled, inverse_root) if tall else _product(inverse_root, scaled)
    length = _norm(scaled) / _norm(factor) * largest
    return jnp.where(usable, factor, x), jnp.where(usable, length, 1.0)[..., 0, 0]


def _inverse_root(gram: Array, iteration: PolarIteration) -> Array:
    """The polynomials' approximation of G^(-1/2), for [..., k, k]."""
    identity = jnp.eye(gram.shape[-1], dtype=gram.dtype)
    square = _product(gram, gram)
    if iteration.by_trace:
        bound = jnp.trace(gram, axis1=-2, axis2=-1)[..., None, None]
    else:
        bound = jnp.sqrt(_norm(square))
    gram, square = gram / bound, square / bound**2

    def polynomial(coefficients: tuple[float, float, float]) -> Array:
        a, b, c = coefficients
        return a * identity + b * gram + c * square

    root = factor = polynomial(iteration.polynomials[0])
    for coefficients in iteration.polynomials[1:]:
        gram = _product(_product(gram, factor), factor)
        square = _product(gram, gram)
        factor = polynomial(coefficients)
        root = _product(root, factor)
    return root * jax.lax.rsqrt(bound)


def _product(a: Array, b: Array) -> Array:
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _norm(x: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(x), axis=(-2, -1), keepdims=True))


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _native(
    matrices: tuple[Array, ...], iteration: PolarIteration = POLAR
) -> tuple[list[Array], list[Array]]:
    """All in one call, which shares its work among the threads; derivatives are those of the JAX form."""
    shapes = [*((x, x.shape) for x in matrices), *((x, x.shape[:-2]) for x in matrices)]
    call = jax.ffi.ffi_call("celo_orthogonalize", result_types(shapes, matrices), vmap_method="broadcast_all")
    results = call(*matrices, muon=iteration == MUON)
    return list(results[: len(matrices)]), list(results[len(matrices) :])


@_native.defjvp
def _native_jvp(
    iteration: PolarIteration, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    def by_xla(matrices: tuple[Array, ...]) -> tuple[list[Array], list[Array]]:
        factors, lengths = zip(*[polar_factor(x, iteration) for x in matrices], strict=True)
        return list(factors), list(lengths)

    return jax.jvp(by_xla, primals, tangents)
