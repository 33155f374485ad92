"""Matrices that step along their orthogonalised momentum; the rule has no part in it.

An element-wise rule sees one number of a matrix at a time, and finds the length of a step better than its
direction. As in Muon (Jordan et al. 2024), a matrix's step here is the polar factor of Nesterov's momentum of
its gradients,

    m <- 0.9 m + 0.1 g,    -polar(0.1 g + 0.9 m) * length,

all singular values equal. Its length as a root mean square, where the matrix has full rank, is that of the
rule's steps: in proportion to the matrix's own size, by a factor that θ carries (`log_matrix_step`).

Steps in proportion to a matrix's own size let that size grow exponentially, and long ones then diverge. With
the setting `start_power`, s, in θ, they are in proportion to

    size^(1 - s) * (size at the first step)^s

so that at s = 1 a matrix grows no faster than the number of steps. A matrix of zeros counts as one that began
with usual initial weights.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from celo._definitions import MOMENTUM_DECAYS, RMS_FLOOR, RULE_STEP, ZERO_SIZE, matrix_shape, usual_size
from celo._kernels import native, orthogonal
from celo._kernels.stacking import over_slices, over_stack, stackable
from celo._kernels.statistics import finite_gradient, rms
from celo._layout import zeros_beside
from celo._types import Array, Params, Updates
from celo.optimizers._rule_steps import check_state_shape

DECAY = MOMENTUM_DECAYS[0]


class MatrixState(NamedTuple):
    """What is kept of matrices: pytrees like the parameters, `optax.MaskedNode` in the others' places."""

    momentum: Params
    first_size: Params  # root mean square at the first step; 0 before

    holds_gradient_statistics = True  # `guard_nonfinite` keeps them as they were


def init_matrices(params: Params, layers: list[int]) -> MatrixState:
    """No momentum, float32, and no sizes yet.

    Args:
      params: pytree of the matrices, arrays or their shapes.
      layers: for each leaf, how many leading axes count matrices.
    """
    leaves, treedef = jax.tree.flatten(params)
    momentum = [zeros_beside(p, jnp.shape(p)) for p in leaves]
    first_size = [zeros_beside(p, jnp.shape(p)[:axes]) for p, axes in zip(leaves, layers, strict=True)]
    return MatrixState(jax.tree.unflatten(treedef, momentum), jax.tree.unflatten(treedef, first_size))


def take_matrix_steps(
    theta: dict[str, Array],
    grads: Updates,
    state: MatrixState,
    params: Params,
    *,
    layers: list[int],
    least: float | Array,
    kernel: str,
) -> tuple[list[Array], MatrixState]:
    """The step of each matrix, float32, and the state after it.

    Args:
      theta: the rule's weights, with `log_matrix_step`.
      grads: pytree like `params`.
      state: as `init_matrices` makes it.
      params: pytree of the matrices.
      layers: for each leaf, how many leading axes count matrices.
      least: a matrix counts as at least this large.
      kernel: "native" or "xla".

    Raises:
      CeloError: for a state of other shapes.
    """
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    leaves = [leaf for _, leaf in paths]
    momenta, first_sizes = treedef.flatten_up_to(state.momentum), treedef.flatten_up_to(state.first_size)
    for (path, leaf), axes, momentum, first in zip(paths, layers, momenta, first_sizes, strict=True):
        name = jax.tree_util.keystr(path)
        check_state_shape(name, leaf, "momentum", leaf.shape, momentum)
        check_state_shape(name, leaf, "first_size", leaf.shape[:axes], first)
        if kernel == "native":
            native.check_whole(leaf, name)
    tensors = list(zip(leaves, treedef.flatten_up_to(grads), momenta, first_sizes, strict=True))

    def looked_at(axes: int, *tensor: Array) -> _Ahead:
        return _look(theta, least, axes, *tensor)

    def stepped(axes: int, *tensor: Array) -> tuple[Array, Array, Array]:
        ahead = looked_at(axes, *tensor)
        return (
            _step(ahead, orthogonal.factor(ahead.direction), tensor[0].shape),
            ahead.momentum,
            ahead.first_size,
        )

    if kernel == "native":  # all factors in one call
        ahead = [looked_at(axes, *tensor) for axes, tensor in zip(layers, tensors, strict=True)]
        factors = orthogonal.factors(dict(enumerate(one.direction for one in ahead)), kernel)
        results = [
            (_step(one, factors[i], leaves[i].shape), one.momentum, one.first_size)
            for i, one in enumerate(ahead)
        ]
    else:  # matrices of one shape by one program
        results: list[Any] = [None] * len(tensors)
        for group in stackable(leaves, list(zip(layers, [g.dtype for _, g, *_ in tensors], strict=True))):
            of_group = over_stack(partial(stepped, layers[group[0]]), [tensors[i] for i in group])
            for i, result in zip(group, of_group, strict=True):
                results[i] = result
    steps, momenta, first_sizes = zip(*results, strict=True) if results else ((), (), ())
    after = MatrixState(jax.tree.unflatten(treedef, momenta), jax.tree.unflatten(treedef, first_sizes))
    return list(steps), after


class _Ahead(NamedTuple):
    """What a tensor's step is made of."""

    direction: Array  # [*stack, rows, columns], uphill
    length: Array  # [*stack], of a step whose factor has singular values of one
    momentum: Array
    first_size: Array


def _look(
    theta: dict[str, Array],
    least: float | Array,
    layers: int,
    param: Array,
    grad: Array,
    momentum: Array,
    first: Array,
) -> _Ahead:
    grad = finite_gradient(grad)
    momentum = DECAY * momentum + (1 - DECAY) * grad
    matrix = matrix_shape(param.shape, layers)
    assert matrix is not None, f"a tensor of shape {param.shape} has no matrices"
    ahead = (1 - DECAY) * grad + DECAY * momentum
    size = over_slices(_size, layers)(param)
    began = jnp.where(size < ZERO_SIZE, usual_size(matrix), size)  # the size of zeros says nothing
    first = jnp.where(first == 0.0, began, first)
    power = theta.get("start_power", 0.0)
    share = jnp.maximum(size, least) ** (1 - power) * jnp.maximum(first, least) ** power
    # A factor of full rank has a root mean square of 1 / sqrt(the longer side).
    length = RULE_STEP * jnp.exp(theta["log_matrix_step"]) * share * math.sqrt(max(matrix))
    return _Ahead(ahead.reshape(*param.shape[:layers], *matrix), length, momentum, first)


def _step(ahead: _Ahead, factor: Array, shape: tuple[int, ...]) -> Array:
    return (-ahead.length[..., None, None] * factor).reshape(shape)


def are_matrices(params: Params, layers: list[int], wanted: list[bool]) -> list[bool]:
    """For each leaf, whether it is wanted, holds matrices, and not thin ones."""
    return [
        want and leaf.size > 0 and matrix_shape(jnp.shape(leaf), axes) is not None
        for leaf, axes, want in zip(jax.tree.leaves(params), layers, wanted, strict=True)
    ]


def _size(param: Array) -> Array:
    """What the rule's steps are in proportion to; above 0."""
    return rms(param.astype(jnp.float32), RMS_FLOOR)
