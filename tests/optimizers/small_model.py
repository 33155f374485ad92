"""A model of every kind of tensor, and normal numbers of its shapes."""

import jax

SHAPES = {"w": (3, 4), "b": (4,), "scale": (), "none": (0, 2)}


def normal(seed, shapes=SHAPES, size=1.0):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return {name: size * jax.random.normal(k, shapes[name]) for k, name in zip(keys, shapes, strict=True)}


PARAMS = normal(0)
