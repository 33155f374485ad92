"""Where a state lies: beside the parameters, on their devices, split and varying over them as they are.

JAX types arrays by how they are split over an explicit mesh and, inside `shard_map`, by the axes over which
they vary; `scan` and `cond` compare types, `jit` compares where arguments lie. What `init` returns is of the
types, and in the places, that a step returns.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding

from celo._types import Array, OptState, Params


def zeros_beside(param: Any, shape: tuple[int, ...]) -> Array:
    """float32 zeros for a statistic of a tensor.

    Args:
      param: the tensor: an array, its shape (`jax.ShapeDtypeStruct`) or a number.
      shape: of the statistic: the tensor's leading axes, each of its own size or averaged away to 1.
    """
    sizes = jnp.shape(param)
    if isinstance(param, Tracer):  # computed, so that its type is that of a mean over the tensor
        zeros = jnp.zeros_like(param, jnp.float32)
        averaged = [i for i, size in enumerate(sizes) if i >= len(shape) or shape[i] != size]
        zeros = jnp.sum(zeros, averaged, keepdims=True) if averaged else zeros
        return jax.lax.squeeze(zeros, range(len(shape), len(sizes)))
    sharding = getattr(param, "sharding", None)
    if sharding is None or (isinstance(param, jax.Array) and not param.committed):
        return jnp.zeros(shape, jnp.float32)
    return jnp.zeros(shape, jnp.float32, device=_sharding_beside(sharding, sizes, shape))


def spec_beside(spec: PartitionSpec, sizes: tuple[int, ...], shape: tuple[int, ...]) -> PartitionSpec:
    """How a statistic of that shape is split beside a tensor of `sizes` that is split by `spec`."""
    axes = [*spec, *[None] * (len(sizes) - len(spec))]
    kept = zip(shape, sizes, axes, strict=False)  # a statistic may have fewer axes
    return PartitionSpec(*(axis if n == size else None for n, size, axis in kept))


def _sharding_beside(sharding: Sharding, sizes: tuple[int, ...], shape: tuple[int, ...]) -> Sharding | None:
    if isinstance(sharding, NamedSharding):
        if not isinstance(sharding.mesh, Mesh):  # of a shape; it names no devices
            return None
        spec = spec_beside(sharding.spec, sizes, shape)
        return NamedSharding(sharding.mesh, spec, memory_kind=sharding.memory_kind)
    return sharding if shape == sizes or sharding.is_fully_replicated else None


def placed_with(params: Params, state: OptState) -> OptState:
    """`state`, what has no place yet (counters, the schedule) copied to all devices of the parameters."""
    placed = (
        leaf.sharding
        for leaf in jax.tree.leaves(params)
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer) and leaf.committed
    )
    sharding = next(placed, None)
    if sharding is None:
        return state
    if isinstance(sharding, NamedSharding):
        sharding = NamedSharding(sharding.mesh, PartitionSpec())
    elif not sharding.is_fully_replicated:
        return state

    def place(x: Array) -> Array:
        return x if isinstance(x, Tracer) or x.committed else jax.device_put(x, sharding)

    return jax.tree.map(place, state)


def varying_zero(arrays: Iterable[Any]) -> Array:
    """A float32 0 that varies over devices as what is computed from all these arrays does."""
    kinds = {_varying_axes(x): x for x in arrays if isinstance(x, Tracer)}
    zero = jnp.zeros((), jnp.float32)
    for axes, x in kinds.items():
        zero = zero + zeros_beside(x, ()) if axes else zero
    return zero


def _varying_axes(x: Array) -> frozenset[str]:
    """The axes of a `shard_map` over which an array varies."""
    kind: Any = jax.typeof(x)
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying  # until, and since JAX 0.10


def result_types(
    shapes: Sequence[tuple[Array, tuple[int, ...]]], arguments: Sequence[Array]
) -> list[jax.ShapeDtypeStruct]:
    """float32 types for what a foreign function returns, which cannot be traced.

    Args:
      shapes: for each result an array that it is laid out as, and its shape, as in `zeros_beside`.
      arguments: all that the function reads: where one of them varies over devices, all results do.
    """
    if jax.typeof(shapes[0][0]).sharding.mesh.empty:
        return [jax.ShapeDtypeStruct(shape, jnp.float32) for _, shape in shapes]

    def zeros(beside: Sequence[Array], arguments: Sequence[Array]) -> list[Array]:
        zero = varying_zero(arguments)
        return [zero + zeros_beside(x, shape) for x, (_, shape) in zip(beside, shapes, strict=True)]

    return jax.eval_shape(zeros, [x for x, _ in shapes], arguments)
