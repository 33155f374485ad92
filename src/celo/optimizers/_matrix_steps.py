"""The steps of matrices: orthogonalised, and how long they then are.

Each keeps the root mean square that the rule gave it, times a gain that θ carries (`log_matrix_gain`). A rule
whose steps are in proportion to a matrix's own size lets that size grow exponentially, and long steps then
diverge. With the setting `start_power`, s, in θ, a step is in proportion to

    size^(1 - s) * (size at the first step)^s

so that at s = 1 a matrix grows no faster than the number of steps. A matrix of zeros counts as one that began
with usual initial weights.
"""

from itertools import chain

import jax
import jax.numpy as jnp

from celo._definitions import ZERO_SIZE, matrix_shape, usual_size
from celo._errors import CeloError
from celo._kernels import orthogonal
from celo._kernels.stacking import Stacks
from celo._layout import zeros_beside
from celo._types import Array, Params
from celo.optimizers._rule_steps import check_state_shape


def init_first_size(params: Params, layers: list[int]) -> Params:
    """Zeros, one for each tensor that a leaf stacks, until a first step says more."""
    leaves, treedef = jax.tree.flatten(params)
    zeros = [zeros_beside(p, jnp.shape(p)[:axes]) for p, axes in zip(leaves, layers, strict=True)]
    return jax.tree.unflatten(treedef, zeros)


def matrix_steps(
    theta: dict[str, Array],
    steps: Stacks,
    first_size: Params | None,
    params: Params,
    *,
    wanted: list[bool],
    layers: list[int],
    least: float | Array,
    kernel: str,
) -> tuple[Stacks, Params | None]:
    """The steps, those of matrices orthogonalised, and the first sizes.

    Args:
      theta: the rule's weights.
      steps: of each leaf its step, float32, and its root mean square, as `take_steps` gives them.
      first_size: as `init_first_size` makes it, or None where θ has no `start_power`.
      params: the parameters.
      wanted: for each leaf, whether it is to be orthogonalised if it is a matrix; the same in all of a stack.
      layers: for each leaf, how many leading axes count matrices.
      least: a matrix counts as at least this large.
      kernel: "native" or "xla".

    Raises:
      CeloError: if first sizes are there and θ has no use for them, or the other way round; or for a state of
        other shapes.
    """
    if ("start_power" in theta) != (first_size is not None):
        raise CeloError(
            "the state was made with other weights: first_size in it goes with start_power in θ. "
            "Begin with tx.init(params), or take the weights that the state was made with"
        )
    arrays, counted = [step for step, _ in steps.values], steps.leading_axes(layers)
    replaced = orthogonal.orthogonalized(arrays, steps.first(wanted), counted, kernel)
    gain = jnp.exp(theta["log_matrix_gain"]) if "log_matrix_gain" in theta else jnp.ones(())
    gains = dict.fromkeys(replaced, gain)
    if first_size is not None:
        firsts = _checked_sizes(first_size, params, layers)
        before = Stacks.of(firsts, [steps.groups[n] for n in replaced])
        after = []
        for n, first in zip(replaced, before.values, strict=True):
            size = steps.values[n][1]
            first = jnp.where(first == 0.0, _began(size, arrays[n].shape, counted[n]), first)
            share = jnp.maximum(first, least) / jnp.maximum(size, least)
            gains[n] = gain * share ** theta["start_power"]
            after.append(first)
        indices = sorted(chain.from_iterable(before.groups))
        for i, first in zip(indices, Stacks(before.groups, after).apart(), strict=True):
            firsts[i] = first
        first_size = jax.tree.unflatten(jax.tree.structure(params), firsts)
    for n, matrix in replaced.items():
        arrays[n] = jnp.expand_dims(gains[n], tuple(range(gains[n].ndim, matrix.ndim))) * matrix
    return Stacks(steps.groups, arrays), first_size


def _checked_sizes(first_size: Params, params: Params, layers: list[int]) -> list[Array]:
    """The first sizes of the leaves; CeloError for some of another shape."""
    paths, treedef = jax.tree_util.tree_flatten_with_path(params)
    sizes = treedef.flatten_up_to(first_size)
    for (path, leaf), size, axes in zip(paths, sizes, layers, strict=True):
        check_state_shape(jax.tree_util.keystr(path), leaf, "first_size", leaf.shape[:axes], size)
    return sizes


def _began(size: Array, shape: tuple[int, ...], layers: int) -> Array:
    """The first sizes of matrices; of zeros, whose size says nothing, that of usual initial weights."""
    matrix = matrix_shape(shape, layers)
    assert matrix is not None, f"a tensor of shape {shape} has no matrices"
    return jnp.where(size < ZERO_SIZE, usual_size(matrix), size)
