"""Pytrees: arithmetic leaf by leaf, and parts of them."""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from celo._types import Array, Key, Theta

Tree = Any


def where(condition: Array, yes: Tree, no: Tree) -> Tree:
    """`yes` where a scalar condition holds, else `no`; both of one structure."""
    return jax.tree.map(lambda a, b: jnp.where(condition, a, b), yes, no)


def united(first: Theta, second: Theta) -> Theta:
    """One θ of the weights of both, group by group."""
    return {group: {**first.get(group, {}), **second.get(group, {})} for group in {**first, **second}}


def norm(tree: Tree) -> Array:
    """Euclidean norm over all leaves; a float32 scalar."""
    return jnp.sqrt(sum((jnp.sum(jnp.square(leaf)) for leaf in jax.tree.leaves(tree)), jnp.zeros(())))


def normal_like(key: Key, tree: Tree, std: float) -> Tree:
    """Independent normals of deviation `std`, shaped like the leaves; float32."""
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(key, len(leaves))
    noise = [
        std * jax.random.normal(k, leaf.shape, jnp.float32) for k, leaf in zip(keys, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, noise)


def scaled(tree: Tree, factor: Array) -> Tree:
    """Every leaf, real or complex, times a float32 scalar, in the leaf's own dtype."""

    def times(x: Any) -> Array:
        x = jnp.asarray(x)
        wide = jnp.complex64 if jnp.iscomplexobj(x) else jnp.float32
        return (factor.astype(wide) * x.astype(wide)).astype(x.dtype)

    return jax.tree.map(times, tree)


def only(mask: list[bool], tree: Tree, like: Tree) -> Tree:
    """A tree shaped like `like`, with `optax.MaskedNode` where the mask, one value a leaf, is False."""
    treedef = jax.tree.structure(like)
    leaves = treedef.flatten_up_to(tree)
    kept = [leaf if keep else optax.MaskedNode() for leaf, keep in zip(leaves, mask, strict=True)]
    return jax.tree.unflatten(treedef, kept)


def without(mask: list[bool], tree: Tree, like: Tree) -> Tree:
    """A tree shaped like `like`, with `optax.MaskedNode` where the mask is True."""
    return only([not taken for taken in mask], tree, like)
