"""Tensors that play one part in every layer are computed as one stack: compile time is that of one layer.

A model of a hundred tensors has perhaps ten shapes. XLA compiles what it is given a hundred times over unless
equal work is handed to it as one array with a leading axis.
"""

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AxisType

from celo._types import Array, Params

LARGEST = 1 << 17  # parameters of a tensor worth a copy; beyond, memory counts for more than compile time


def alike(params: Params, others: list[Any]) -> list[list[int]]:
    """Groups of leaves that can be stacked: numbers in the order of flattening.

    Alike are leaves of one shape and dtype whose paths differ in numbers only ("layer3/attention/query"),
    for which `others`, one value a leaf, agree, and which are split over devices in one way. Stacking those
    split differently would move whole tensors between devices; where it cannot be told (several devices, a
    mesh whose axes are not explicit) each leaf is a group of its own. So is a large one: a stack is a copy.
    """
    groups: dict[Any, list[int]] = {}
    for number, (path, leaf) in enumerate(jax.tree_util.tree_leaves_with_path(params)):
        part = re.sub(r"\d+", "#", jax.tree_util.keystr(path))
        place = number if leaf.size > LARGEST else _place(leaf, number)
        groups.setdefault((part, leaf.shape, leaf.dtype, place, others[number]), []).append(number)
    return list(groups.values())


def _place(leaf: Array, number: int) -> Any:
    """What leaves must have in common to be known to lie in one place."""
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
    found = jax.lax.map(lambda arguments: function(*arguments), stacked)
    return [jax.tree.map(lambda x, i=i: x[i], found) for i in range(len(tensors))]
