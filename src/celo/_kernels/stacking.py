"""Tensors computed together: stacked layers taken apart, tensors of one shape put together.

A model that scans over its layers keeps one tensor [layers, …] for all of them. The rule normalises by root
mean squares over a tensor and factors second moments over its axes: of a stacked tensor these would mix
layers that have nothing to do with each other, so `per_layer` treats them as that many tensors.

A model that does not may have a hundred tensors of perhaps ten shapes. XLA compiles equal work a hundred
times over unless it is handed over as one array with a leading axis: compile time is then that of one layer.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType

from celo._errors import CeloError
from celo._types import Array, Params

PerLayer = Any | Callable[[Params], Any] | None  # pytree prefix of whole numbers, or a function giving one
LARGEST = 1 << 17  # parameters of a tensor worth a copy; beyond, memory counts for more than compile time


def leading_axes(per_layer: PerLayer, params: Params) -> list[int]:
    """How many leading axes of each leaf count tensors instead of being part of one.

    Raises:
      CeloError: if `per_layer` is no prefix of the parameters, or asks for axes that are not there.
    """
    counts = per_leaf(per_layer, params, int, "per_layer", default=0)
    for axes, leaf in zip(counts, jax.tree.leaves(params), strict=True):
        if not 0 <= axes <= jnp.ndim(leaf):
            raise CeloError(
                f"per_layer must be from 0 to {jnp.ndim(leaf)} for a tensor of shape {jnp.shape(leaf)}, "
                f"got {axes!r}; give the number of leading axes that count layers"
            )
    return counts


def per_leaf(setting: Any, params: Params, kind: type, name: str, *, default: Any) -> list[Any]:
    """A setting's value for each leaf of the parameters.

    Args:
      setting: a pytree prefix of the parameters with values of that kind, a function of the parameters
        giving one, or None for the default everywhere.
      params: the parameters.
      kind: bool or int.
      name: what the setting is called, for the error.
      default: where the setting is None.

    Raises:
      CeloError: if the setting is no prefix of the parameters, or holds something else.
    """
    leaves = jax.tree.leaves(params)
    if setting is None or not leaves:  # optax finds parameters in a state by `init` of an empty tree
        return [default] * len(leaves)
    prefix = setting(params) if callable(setting) else setting
    what = {bool: "a bool", int: "a whole number"}[kind]
    try:
        full = jax.tree.map(lambda value, part: jax.tree.map(lambda _: value, part), prefix, params)
    except ValueError as error:
        raise CeloError(
            f"{name} must be {what}, a pytree prefix of the parameters, or a function of them "
            f"giving one, got {prefix!r}: {error}"
        ) from error
    values = jax.tree.leaves(full)
    for value in values:
        if not isinstance(value, kind):
            raise CeloError(f"{name} must be {what} for each tensor, got {value!r}")
    return [kind(value) for value in values]


def over_slices(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """`function` of one tensor, mapped over that many leading axes of all its arguments and results."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function


def stackable(params: Params, others: list[Any]) -> list[list[int]]:
    """Groups of leaves that can be stacked, as indices in the order of flattening.

    They are leaves of one shape and dtype, whatever their names, for which `others`, one value a leaf, agree,
    and which are split over devices in one way. Stacking those
    split differently would move whole tensors between devices; where it cannot be told (several devices, a
    mesh whose axes are not explicit) each leaf is a group of its own. So is a large one: a stack is a copy.
    """
    groups: dict[Any, list[int]] = {}
    for number, leaf in enumerate(jax.tree.leaves(params)):
        location = number if leaf.size > LARGEST else _location(leaf, number)
        groups.setdefault((leaf.shape, leaf.dtype, location, others[number]), []).append(number)
    return list(groups.values())


def _location(leaf: Array, number: int) -> Any:
    """What leaves must have in common to be known to lie on the same devices."""
    if jax.device_count() == 1:
        return None
    sharding = jax.typeof(leaf).sharding
    types = sharding.mesh.axis_types
    return sharding if types and all(t is AxisType.Explicit for t in types) else number


def over_stack(function: Callable[..., Any], tensors: list[tuple[Any, ...]]) -> list[Any]:
    """`function` of each tuple of arguments; more than one are stacked and mapped over."""
    if len(tensors) == 1:
        return [function(*tensors[0])]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tensors)
    results = jax.lax.map(lambda arguments: function(*arguments), stacked)
    return [jax.tree.map(partial(_at, place), results) for place in hidden(range(len(tensors)))]


def hidden(places: Sequence[int]) -> list[Array]:
    """Places in an array, hidden from the compiler.

    XLA compiles a kernel for each slice at a place that it knows, milliseconds each; one kernel serves all at
    places that it learns when it runs. A scalar it would see through, even behind a barrier.
    """
    pairs = [np.array([place, len(places)], np.uint32) for place in places]
    return [pair[0] for pair in jax.lax.optimization_barrier([jnp.asarray(pair) for pair in pairs])]


def _at(place: Array, stack: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(stack, place, keepdims=False)


def over_tensors(
    function: Callable[..., Any], tensors: list[tuple[Any, ...]], layers: list[int], groups: list[list[int]]
) -> list[Any]:
    """`function` of each tensor's arguments.

    Args:
      function: of the arguments of one tensor.
      tensors: a tuple of arguments for each.
      layers: how many leading axes of all arguments of each count tensors.
      groups: which are computed together, as `stackable` gives them.
    """
    results: list[Any] = [None] * len(tensors)
    for group in groups:
        of_tensor = over_slices(function, layers[group[0]])
        for i, result in zip(group, over_stack(of_tensor, [tensors[i] for i in group]), strict=True):
            results[i] = result
    return results


def as_rows(arrays: Sequence[Array], width: int) -> Array:
    """Vectors [..., width] of leaves, those of stacked layers one under another: [tensors, width]."""
    return jnp.concatenate([jnp.zeros((0, width)), *(x.reshape(-1, width) for x in arrays)])


def from_rows(rows: Array, params: Sequence[Array], layers: Sequence[int]) -> list[Array]:
    """`as_rows` undone: for each leaf of the parameters its rows, [*layers, width]."""
    leads = [p.shape[:axes] for p, axes in zip(params, layers, strict=True)]
    ends = np.cumsum([0, *map(math.prod, leads)])
    return [rows[ends[n] : ends[n + 1]].reshape(*lead, rows.shape[1]) for n, lead in enumerate(leads)]


def count_tensors(params: Sequence[Array | jax.ShapeDtypeStruct], layers: Sequence[int]) -> list[int]:
    """How many tensors each leaf is: stacked layers are counted one by one."""
    return [math.prod(p.shape[:axes]) for p, axes in zip(params, layers, strict=True)]
