"""Celo's update rule for one tensor in native code: `update_rule.tensor_update` by the kernel in native.cc.

XLA's own loops pass over a tensor's statistics many times; the kernel does so three times. It runs on CPUs,
vmapped or not, and is not split by XLA's partitioner: sharded parameters want `kernel="xla"`.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

from celo._kernels.statistics import TensorStats, factored_axes
from celo._types import Array

WEIGHTS = ("w0", "b0", "w1", "b1", "w2", "b2")  # in the order the kernel reads them; then the floor


def tensor_update(
    theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array, min_rms: float | Array
) -> tuple[Array, TensorStats]:
    """`update_rule.tensor_update` for one tensor of any shape with at least one element."""
    momenta, factors = len(stats.momenta), len(stats.row)
    arrays = [*stats.momenta, stats.second_moment, *stats.row, *stats.col]
    dims, row_along = _memory(param.shape)
    like = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (param, *arrays)]
    call = jax.ffi.ffi_call(
        "celo_rule",
        like,
        vmap_method="broadcast_all",
        input_output_aliases={3 + i: 1 + i for i in range(len(arrays))},  # statistics are updated in place
    )
    floor = jnp.asarray(min_rms, jnp.float32).reshape(1)
    packed = jnp.concatenate([*(theta[name].reshape(-1) for name in WEIGHTS), floor])
    update, *new = call(
        packed, grad.astype(jnp.float32), param.astype(jnp.float32), *arrays, dims=dims, row_along=row_along
    )
    row = momenta + 1
    return update, TensorStats(
        momenta=tuple(new[:momenta]),
        second_moment=new[momenta],
        row=tuple(new[row : row + factors]),
        col=tuple(new[row + factors :]),
    )


def _memory(shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """(sizes, row_along): how the factored axes lie in memory.

    A tensor with two or more axes is [outer, a, middle, b, inner] with a and b its factored axes; others
    are one line, [size]. `row_along` says that the row moment is the one averaged over b.
    """
    axes = factored_axes(shape)
    if axes is None:
        return np.array([math.prod(shape)], np.int64), False
    a, b = sorted(axes)
    between = [shape[:a], shape[a : a + 1], shape[a + 1 : b], shape[b : b + 1], shape[b + 1 :]]
    return np.array([math.prod(sizes) for sizes in between], np.int64), axes[0] == b
