"""Run by test_sanitizers.py: native calls with buffers of wrong shapes and dtypes, as XLA hands them over.

Each must end in an error of JAX's or, where the sizes happen to be right, in a result. Prints how many did.
"""

import math
import sys

import jax
import jax.numpy as jnp
import numpy as np

from celo._definitions import memory_layout
from celo._kernels import native
from celo._kernels.statistics import init_stats

DTYPES = [jnp.float32] * 12 + [jnp.bfloat16, jnp.int32, jnp.uint8, jnp.complex64]


def of_rule(draw):
    """Arguments, results and attributes of a right call, a few of them spoilt."""
    shape = tuple(int(n) for n in draw.integers(1, 9, draw.integers(0, 5)))
    stats = jax.tree.leaves(jax.eval_shape(lambda: init_stats(jnp.zeros(shape), 3, 3)))
    arguments = [(155,), shape, shape, *(x.shape for x in stats)]
    results = [shape, *(x.shape for x in stats)]
    dims, row_along = memory_layout(shape)
    spoil(draw, arguments)
    spoil(draw, results)
    if draw.integers(4) == 0:
        dims = [int(n) for n in draw.integers(0, 9, draw.integers(0, 8))]
    return arguments, results, {"dims": np.array(dims, np.int64), "row_along": row_along}


def of_orthogonalize(draw):
    shapes = [tuple(int(n) for n in draw.integers(1, 12, draw.integers(2, 4))) for _ in range(3)]
    arguments, results = list(shapes), [*shapes, *(shape[:-2] for shape in shapes)]
    spoil(draw, arguments)
    spoil(draw, results)
    return arguments, results, {}


def spoil(draw, shapes):
    for _ in range(draw.integers(0, 2)):
        i = draw.integers(len(shapes))
        shapes[i] = tuple(int(n) for n in draw.integers(0, 12, draw.integers(0, 5)))
    if draw.integers(10) == 0:
        del shapes[draw.integers(len(shapes))]


def attempt(draw):
    """Whether a call succeeded."""
    target, make = (("celo_rule", of_rule), ("celo_orthogonalize", of_orthogonalize))[draw.integers(2)]
    arguments, results, attributes = make(draw)

    def dtype():
        return DTYPES[draw.integers(len(DTYPES))] if draw.integers(4) == 0 else jnp.float32

    call = jax.ffi.ffi_call(target, [jax.ShapeDtypeStruct(shape, dtype()) for shape in results])
    buffers = [jnp.asarray(np.ones(math.prod(shape)).reshape(shape), dtype()) for shape in arguments]
    try:
        jax.block_until_ready(call(*buffers, **attributes))
    except jax.errors.JaxRuntimeError:
        return False
    return True


if __name__ == "__main__":
    native.load()
    rounds = int(sys.argv[1])
    succeeded = sum(attempt(np.random.default_rng(seed)) for seed in range(rounds))
    print(f"{succeeded} of {rounds} calls succeeded")
