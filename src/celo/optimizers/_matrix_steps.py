"""The steps of matrices: orthogonalised, and how long they then are.

Each keeps the root mean square that the rule gave it, times a gain that θ carries (`log_matrix_gain`). A rule
whose steps are in proportion to a matrix's own size lets that size grow exponentially, and long steps then
diverge. With the setting `start_power`, s, in θ, a step is in proportion to

    size^(1 - s) * (size at the first step)^s

so that at s = 1 a matrix grows no faster than the number of steps. A matrix of zeros counts as one that began
with usual initial weights.

What is orthogonalised is the rule's step: element by element it is nearly of one size, as Adam's is, and that
loses what the gradient says of a matrix as a whole. With the setting `momentum_share`, c, in θ it is

    (1 - c) * step + c * (as long a step along Nesterov's momentum)

of the gradient and its first momentum, so that at c = 1 the rule says how long the step is, and no more.
"""

from functools import partial

import jax
import jax.numpy as jnp

from celo._definitions import MOMENTUM_DECAYS, RMS_FLOOR, SMALLEST, ZERO_SIZE, matrix_shape, usual_size
from celo._errors import CeloError
from celo._kernels import orthogonal
from celo._kernels.stacking import over_slices
from celo._kernels.statistics import finite_gradient, rms
from celo._layout import zeros_beside
from celo._types import Array, Params, Updates
from celo.optimizers._rule_steps import check_state_shape


def init_first_size(params: Params, layers: list[int]) -> Params:
    """Zeros, one for each tensor that a leaf stacks, until a first step says more."""
    leaves, treedef = jax.tree.flatten(params)
    zeros = [zeros_beside(p, jnp.shape(p)[:axes]) for p, axes in zip(leaves, layers, strict=True)]
    return jax.tree.unflatten(treedef, zeros)


def matrix_steps(
    theta: dict[str, Array],
    steps: list[Array],
    first_size: Params | None,
    params: Params,
    grads: Updates,
    momentum: Params,
    *,
    wanted: list[bool],
    layers: list[int],
    least: float | Array,
    kernel: str,
) -> tuple[list[Array], Params | None]:
    """The steps, those of matrices orthogonalised, and the first sizes.

    Args:
      theta: the rule's weights.
      steps: of each leaf, float32.
      first_size: as `init_first_size` makes it, or None where θ has no `start_power`.
      params: the parameters.
      grads: their gradients.
      momentum: the rule's first one, with these gradients in it.
      wanted: for each leaf, whether it is to be orthogonalised if it is a matrix.
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
    if "momentum_share" in theta:
        treedef = jax.tree.structure(params)
        each = zip(
            steps, treedef.flatten_up_to(grads), treedef.flatten_up_to(momentum), layers, wanted, strict=True
        )
        directions = [
            over_slices(partial(_along_momentum, theta["momentum_share"]), axes)(step, grad, mean)
            if asked and step.size and matrix_shape(step.shape, axes)
            else step
            for step, grad, mean, axes, asked in each
        ]
    else:
        directions = steps
    replaced = orthogonal.orthogonalized(directions, wanted, layers, kernel)
    gain = jnp.exp(theta["log_matrix_gain"]) if "log_matrix_gain" in theta else jnp.ones(())
    gains = dict.fromkeys(replaced, gain)
    if first_size is not None:
        paths, treedef = jax.tree_util.tree_flatten_with_path(params)
        first = treedef.flatten_up_to(first_size)
        for i in replaced:
            path, leaf = paths[i]
            stack = leaf.shape[: layers[i]]
            check_state_shape(jax.tree_util.keystr(path), leaf, "first_size", stack, first[i])
            size = over_slices(_size, layers[i])(leaf)
            first[i] = jnp.where(first[i] == 0.0, _began(size, leaf.shape, layers[i]), first[i])
            share = jnp.maximum(first[i], least) / jnp.maximum(size, least)
            gains[i] = gain * share ** theta["start_power"]
        first_size = jax.tree.unflatten(treedef, first)
    for i, matrix in replaced.items():
        replaced[i] = jnp.expand_dims(gains[i], tuple(range(gains[i].ndim, matrix.ndim))) * matrix
    return [replaced.get(i, step) for i, step in enumerate(steps)], first_size


def _along_momentum(share: Array, step: Array, grad: Array, momentum: Array) -> Array:
    """A matrix's step, that share of it replaced by one as long along Nesterov's momentum."""
    decay = MOMENTUM_DECAYS[0]
    ahead = (1 - decay) * finite_gradient(grad) + decay * momentum
    return (1 - share) * step - share * _length(step) * ahead / jnp.maximum(_length(ahead), SMALLEST)


def _length(x: Array) -> Array:
    """The root mean square, also of what is too small to be squared."""
    largest = jnp.maximum(jnp.max(jnp.abs(x)), SMALLEST)
    return largest * jnp.sqrt(jnp.mean(jnp.square(x / largest)))


def _size(param: Array) -> Array:
    """What the rule's steps are in proportion to; above 0."""
    return rms(param.astype(jnp.float32), RMS_FLOOR)


def _began(size: Array, shape: tuple[int, ...], layers: int) -> Array:
    """The first sizes of matrices; of zeros, whose size says nothing, that of usual initial weights."""
    matrix = matrix_shape(shape, layers)
    assert matrix is not None, f"a tensor of shape {shape} has no matrices"
    return jnp.where(size < ZERO_SIZE, usual_size(matrix), size)
