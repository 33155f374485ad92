"""Properties of any parameters: hypothesis looks for trees, numbers and policies that break them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celo._kernels import native
from celo.optimizers import celo, scale_by_celo_rule
from celo.transforms import _nonfinite as nonfinite

KERNEL = native.resolve("auto")
SHAPES = [(), (1,), (4,), (3, 2), (2, 1, 3), (0,)]
DTYPES = [jnp.float32, jnp.bfloat16, jnp.float16]
few = settings(max_examples=8, deadline=None, derandomize=True)

shapes = st.lists(st.sampled_from(SHAPES), min_size=1, max_size=4)
seeds = st.integers(0, 2**16)
sizes = st.sampled_from([0.0, 1e-38, 1e-12, 1e-3, 1.0, 1e4, 3e38])
bad_numbers = st.sampled_from([np.nan, np.inf, -np.inf])


@pytest.fixture(scope="module")
def rule(theta):
    return scale_by_celo_rule(theta, kernel=KERNEL)


@pytest.fixture(scope="module")
def update(rule):
    """One tensor's first step, compiled once for each shape."""
    return jax.jit(lambda grad, param: rule.update(grad, rule.init(param), param))


def draw(seed, shapes, size=1.0, dtype=jnp.float32):
    rng = np.random.default_rng(seed)
    largest = float(jnp.finfo(dtype).max)
    # The largest sizes stay finite, and the smallest may become zero.
    return [
        jnp.asarray(np.clip(size * rng.uniform(-1, 1, shape), -largest, largest), jnp.float32).astype(dtype)
        for shape in shapes
    ]


def equal(left, right):
    jax.tree.map(np.testing.assert_array_equal, left, right)


def close(left, right):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-9), left, right)


@few
@given(shapes=shapes, seed=seeds, order=st.randoms(use_true_random=False))
def test_the_order_of_tensors_and_their_tree_do_not_matter(rule, update, shapes, seed, order):
    params, grads = draw(seed, shapes), draw(seed + 1, shapes)
    alone = [update(g, p)[0] for g, p in zip(grads, params, strict=True)]
    shuffled = list(range(len(shapes)))
    order.shuffle(shuffled)

    def pack(leaves):
        first, *rest = [leaves[i] for i in shuffled]
        return {"first": first, "rest": {"deeper": tuple(rest)}}

    together, _ = rule.update(pack(grads), rule.init(pack(params)), pack(params))
    close(together, pack(alone))


@few
@given(shape=st.sampled_from(SHAPES), seed=seeds, grad_size=sizes, param_size=sizes)
def test_finite_in_finite_out(update, shape, seed, grad_size, param_size):
    param_size = min(param_size, 1e18)  # the square of a larger one is no float32
    [grad], [param] = draw(seed, [shape], grad_size), draw(seed + 1, [shape], param_size)
    for leaf in jax.tree.leaves(update(grad, param)):
        assert np.all(np.isfinite(leaf))


@pytest.mark.slow
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    shapes=shapes,
    dtypes=st.lists(st.sampled_from(DTYPES), min_size=4, max_size=4),
    policy=st.sampled_from([None, *nonfinite.POLICIES]),
    plateau=st.sampled_from([None, 0.5]),
    state_dtype=st.sampled_from(["float32", "bfloat16"]),
)
def test_types_and_structure_stay(theta, shapes, dtypes, policy, plateau, state_dtype):
    """Nothing is computed here."""
    options = {"nonfinite": policy, "plateau": plateau, "state_dtype": state_dtype}
    tx = celo(20, weights=theta, kernel=KERNEL, **options)
    params = [jax.ShapeDtypeStruct(s, d) for s, d in zip(shapes, dtypes, strict=False)]
    before = jax.eval_shape(tx.init, params)
    updates, after = jax.eval_shape(tx.update, params, before, params, value=jnp.float32(1))
    assert updates == params
    assert jax.tree.structure(after) == jax.tree.structure(before)
    assert jax.tree.leaves(after) == jax.tree.leaves(before)


@few
@given(shape=st.sampled_from(SHAPES), seed=seeds, size=sizes, dtype=st.sampled_from(DTYPES))
def test_compiled_or_not(rule, update, shape, seed, size, dtype):
    [grad], [param] = draw(seed, [shape], size, dtype), draw(seed + 1, [shape], 1.0, dtype)
    updates, state = update(grad, param)
    expected, expected_state = rule.update(grad, rule.init(param), param)
    tolerance = 1e-4 + 2 * float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(
        updates.astype(jnp.float32), expected.astype(jnp.float32), rtol=tolerance, atol=1e-7
    )
    close(state, expected_state)


@few
@given(shape=st.sampled_from([s for s in SHAPES if s != (0,)]), seed=seeds, grad_size=sizes)
def test_vmap_is_a_loop(update, shape, seed, grad_size):
    grads = draw(seed, [shape] * 3, grad_size)
    params = draw(seed + 1, [shape] * 3)
    together = jax.vmap(update)(jnp.stack(grads), jnp.stack(params))
    alone = [update(g, p) for g, p in zip(grads, params, strict=True)]
    close(together, jax.tree.map(lambda *leaves: jnp.stack(leaves), *alone))


@pytest.fixture(scope="module")
def guarded(theta):
    """Policy -> a jitted step."""
    txs = {policy: celo(20, weights=theta, kernel=KERNEL, nonfinite=policy) for policy in nonfinite.POLICIES}
    return {
        policy: (tx, jax.jit(lambda g, s, p, v, tx=tx: tx.update(g, s, p, value=v)))
        for policy, tx in txs.items()
    }


@settings(max_examples=20, deadline=None, derandomize=True)
@given(
    policy=st.sampled_from(nonfinite.POLICIES),
    seed=seeds,
    steps=st.lists(
        st.tuples(st.one_of(st.none(), bad_numbers), st.one_of(st.none(), bad_numbers)), max_size=5
    ),
)
def test_bad_numbers_never_stay(guarded, policy, seed, steps):
    tx, step = guarded[policy]
    params, grads = draw(seed, [(3, 2), (4,)]), draw(seed + 1, [(3, 2), (4,)])
    state = tx.init(params)
    for bad_gradient, bad_loss in [*steps, (None, None)]:
        now = grads if bad_gradient is None else [grads[0].at[1, 0].set(bad_gradient), grads[1]]
        loss = 1.0 if bad_loss is None else bad_loss
        before = state
        updates, state = step(now, state, params, jnp.float32(loss))
        assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(updates))
        bad = bad_gradient is not None or bad_loss is not None
        if bad and policy != "repair":
            assert not any(np.any(leaf) for leaf in updates)
            equal(state.inner_state[0], before.inner_state[0])
    assert all(np.all(np.isfinite(leaf)) for leaf in jax.tree.leaves(state))
    assert int(state.bad_gradients) == sum(gradient is not None for gradient, _ in steps)
    assert int(state.bad_losses) == sum(loss is not None for _, loss in steps)
