"""Stacked layers: a tensor [layers, …] taken as that many tensors, as where a model scans over its layers.

The rule normalises by root mean squares over a tensor and factors second moments over its axes. Of a
stacked tensor these would mix layers that have nothing to do with each other; `per_layer` keeps them apart.
"""

from collections.abc import Callable
from typing import Any

import jax

from celo._errors import CeloError
from celo._types import Params

PerLayer = Any | Callable[[Params], Any] | None  # pytree prefix of whole numbers, or a function giving one


def leading_axes(per_layer: PerLayer, params: Params) -> list[int]:
    """How many leading axes of each leaf count tensors instead of being part of one.

    Raises:
      CeloError: if `per_layer` is no prefix of the parameters, or asks for axes that are not there.
    """
    leaves = jax.tree.leaves(params)
    if per_layer is None or not leaves:  # optax finds parameters in a state by `init` of an empty tree
        return [0] * len(leaves)
    prefix = per_layer(params) if callable(per_layer) else per_layer
    try:
        full = jax.tree.map(lambda axes, part: jax.tree.map(lambda _: axes, part), prefix, params)
    except ValueError as error:
        raise CeloError(
            f"per_layer must be a whole number, a pytree prefix of the parameters, or a function of them "
            f"giving one, got {prefix!r}: {error}"
        ) from error
    counts = jax.tree.leaves(full)
    for axes, leaf in zip(counts, leaves, strict=True):
        if not isinstance(axes, int) or not 0 <= axes <= leaf.ndim:
            raise CeloError(
                f"per_layer must be from 0 to {leaf.ndim} for a tensor of shape {tuple(leaf.shape)}, "
                f"got {axes!r}; give the number of leading axes that count layers"
            )
    return [int(axes) for axes in counts]


def over_slices(function: Callable[..., Any], axes: int) -> Callable[..., Any]:
    """`function` of one tensor, mapped over that many leading axes of all its arguments and results."""
    for _ in range(axes):
        function = jax.vmap(function)
    return function
