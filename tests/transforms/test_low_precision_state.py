"""Statistics in bfloat16: half the memory, unbiased rounding, slow averages that move, the same training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from marks import slow_but

from celo import _compile
from celo._errors import CeloError
from celo.optimizers import celo, scale_by_celo_rule
from celo.transforms._low_precision_state import round_at_random

KERNELS = ["xla", "native"] if _compile.find_compiler() else ["xla"]
SOME = slow_but(KERNELS[-1:], KERNELS)
PARAMS = {"w": jnp.linspace(-1.0, 1.0, 48).reshape(8, 6), "b": jnp.linspace(0.1, 0.5, 6), "s": jnp.float32(1)}


def trainer(tx):
    """A function: (state, gradients [steps, …]) -> (state, updates); jitted."""

    def step(state, grads):
        updates, state = tx.update(grads, state, PARAMS)
        return state, updates

    return jax.jit(lambda state, grads: jax.lax.scan(step, state, grads))


def gradients(steps, size=1.0):
    keys = jax.random.split(jax.random.key(0), len(PARAMS))
    return {
        name: size * jax.random.normal(key, (steps, *p.shape))
        for key, (name, p) in zip(keys, PARAMS.items(), strict=True)
    }


def nbytes(tree):
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree))


def test_rounding_is_right_on_average():
    x = jnp.asarray([1.0, 1.0 + 2**-10, -(1.0 + 2**-9), 3e-30, -7e5, 0.0])
    noise = jnp.arange(65536, dtype=jnp.uint32)
    rounded = jax.vmap(lambda n: round_at_random(x, jnp.full(x.shape, n)))(noise)
    assert rounded.dtype == jnp.bfloat16
    mean = np.asarray(rounded, np.float64).mean(axis=0)
    np.testing.assert_allclose(mean, np.asarray(x, np.float64), rtol=2e-5)
    np.testing.assert_array_equal(rounded[:, 0], 1.0)  # what fits stays
    np.testing.assert_array_equal(rounded[:, -1], 0.0)


@pytest.mark.parametrize("kernel", SOME)
def test_half_the_state_and_nearly_the_same_updates(theta, kernel):
    wide, narrow = (
        scale_by_celo_rule(theta, kernel=kernel, state_dtype=d) for d in ("float32", jnp.bfloat16)
    )
    state = narrow.init(PARAMS)
    assert nbytes(state.inner_state) == nbytes(wide.init(PARAMS)) / 2
    assert {leaf.dtype.name for leaf in jax.tree.leaves(state)} == {"bfloat16", "int32"}
    grads = gradients(30)
    state, updates = trainer(narrow)(state, grads)
    wide_state, expected = trainer(wide)(wide.init(PARAMS), grads)
    for name in PARAMS:
        scale = float(jnp.abs(expected[name]).max())
        np.testing.assert_allclose(updates[name], expected[name], rtol=0, atol=0.05 * scale)
    for a, b in zip(jax.tree.leaves(state.inner_state), jax.tree.leaves(wide_state), strict=True):
        np.testing.assert_allclose(
            a.astype(jnp.float32), b, rtol=0, atol=0.03 * float(jnp.abs(b).max()) + 1e-30
        )


def test_slow_averages_move(theta):
    """Second moments forget by a thousandth in a step; rounded to nearest they never would."""
    tx = scale_by_celo_rule(theta, kernel=KERNELS[-1], state_dtype="bfloat16")
    run = trainer(tx)
    steps = 700
    before, _ = run(tx.init(PARAMS), gradients(steps))
    after, _ = run(before, gradients(steps, size=0.0))
    ratio = jnp.mean(after.inner_state.second_moment["w"].astype(jnp.float32)) / jnp.mean(
        before.inner_state.second_moment["w"].astype(jnp.float32)
    )
    np.testing.assert_allclose(ratio, 0.999**steps, rtol=0.02)


def test_a_resumed_run_is_the_uninterrupted_one(theta):
    tx = scale_by_celo_rule(theta, kernel=KERNELS[-1], state_dtype="bfloat16")
    run, grads = trainer(tx), gradients(8)
    whole, _ = run(tx.init(PARAMS), grads)
    half, _ = run(tx.init(PARAMS), jax.tree.map(lambda g: g[:4], grads))
    resumed, _ = run(half, jax.tree.map(lambda g: g[4:], grads))
    jax.tree.map(np.testing.assert_array_equal, resumed, whole)


def test_in_celo(theta):
    tx = celo(20, weights=theta, kernel=KERNELS[-1], state_dtype="bfloat16", nonfinite="skip")
    grads = jax.tree.map(jnp.ones_like, PARAMS)
    updates, state = jax.jit(tx.update)(grads, tx.init(PARAMS), PARAMS, value=jnp.float32(1.0))
    before = state.inner_state[0]
    bad = jax.tree.map(lambda g: jnp.nan * g, grads)
    updates, state = jax.jit(tx.update)(bad, state, PARAMS, value=jnp.float32(1.0))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, state.inner_state[0].inner_state, before.inner_state)


@pytest.mark.parametrize("dtype", ["float16", jnp.float64, "int8", "bf16", None], ids=repr)
def test_other_dtypes_are_refused(theta, dtype):
    with pytest.raises(CeloError, match="state_dtype must be float32 or bfloat16, got"):
        scale_by_celo_rule(theta, state_dtype=dtype)
