"""The rule's statistics stored in bfloat16: half the state.

Each step reads them as float32, computes as ever, and rounds what it stores up or down at random, so that it
is right on average. Rounding to nearest would not do: an average over 1,000 steps moves by a thousandth of
itself in a step, bfloat16 has a resolution of 1/256, and so it would never move. The random bits are a hash
of element, tensor and step: a resumed run equals an uninterrupted one.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from celo._errors import CeloError
from celo._layout import placed_with
from celo._types import Array, OptState, Params, Updates

STATE_DTYPES = ("float32", "bfloat16")


class CompactState(NamedTuple):
    """State of an optimizer, its float32 arrays rounded to bfloat16."""

    inner_state: OptState
    step: Array  # int32, steps taken; what the random bits are drawn from


def check_state_dtype(dtype: Any) -> str:
    """The name of a dtype that statistics can have.

    Raises:
      CeloError: for any other than float32 and bfloat16.
    """
    try:
        name = jnp.dtype(dtype).name
    except TypeError:
        name = repr(dtype)
    if name not in STATE_DTYPES:
        raise CeloError(
            f"state_dtype must be float32 or bfloat16, got {name}; "
            "the second moments of small gradients are too small for other dtypes"
        )
    return name


def in_bfloat16(
    tx: optax.GradientTransformationExtraArgs, field: str | None = None
) -> optax.GradientTransformationExtraArgs:
    """`tx` with the float32 arrays of its state, or of one field of it, stored in bfloat16."""

    def replaced(state: OptState, change: Callable[[Any], OptState]) -> OptState:
        return change(state) if field is None else state._replace(**{field: change(getattr(state, field))})

    def init_fn(params: Params) -> OptState:
        return placed_with(params, replaced(tx.init(params), compacted))

    def update_fn(
        updates: Updates, state: OptState, params: Params | None = None, **extra_args: Any
    ) -> tuple[Updates, OptState]:
        before = state if field is None else getattr(state, field)
        updates, wide = tx.update(updates, replaced(state, widened), params, **extra_args)
        return updates, replaced(wide, lambda part: compacted(part, before))

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def compacted(state: OptState, before: CompactState | None = None) -> CompactState:
    """`state` in bfloat16: the first, or the one that follows `before`."""
    if before is None:
        return CompactState(_rounded(state, jnp.zeros((), jnp.int32)), jnp.zeros((), jnp.int32))
    return CompactState(_rounded(state, before.step), before.step + 1)


def widened(state: CompactState) -> OptState:
    """The state that was rounded, in float32 again."""
    return jax.tree.map(lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, state.inner_state)


def _rounded(state: OptState, count: Array) -> OptState:
    leaves, treedef = jax.tree.flatten(state)
    narrow = [
        round_at_random(x, _noise(x.shape, count, tensor)) if x.dtype == jnp.float32 else x
        for tensor, x in enumerate(leaves)
    ]
    return jax.tree.unflatten(treedef, narrow)


def round_at_random(x: Array, noise: Array) -> Array:
    """float32 -> bfloat16, away from zero in as many of the 65,536 values of `noise` as x is on the way.

    Args:
      x: finite, of any shape.
      noise: uint32 below 65,536, of that shape.
    """
    bits = jax.lax.bitcast_convert_type(x, jnp.uint32) + noise
    bits = bits & jnp.uint32(0xFFFF0000)
    return jax.lax.bitcast_convert_type(bits, jnp.float32).astype(jnp.bfloat16)


def _noise(shape: tuple[int, ...], count: Array, tensor: int) -> Array:
    """16 random bits for each element: MurmurHash3's finalizer over its place, its tensor and the step."""
    size = 1
    for length in shape:
        size *= length
    place = jax.lax.iota(jnp.uint32, size).reshape(shape)
    x = place * jnp.uint32(0x9E3779B1) + count.astype(jnp.uint32) * jnp.uint32(0x85EBCA77)
    x = x + jnp.uint32((tensor + 1) * 0xC2B2AE3D & 0xFFFFFFFF)
    x = (x ^ (x >> jnp.uint32(16))) * jnp.uint32(0x85EBCA6B)
    x = (x ^ (x >> jnp.uint32(13))) * jnp.uint32(0xC2B2AE35)
    return x >> jnp.uint32(16)
