"""Stacked layers: with `per_layer`, a stack is its slices, on both kernels."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from marks import slow_but

from celo import _compile
from celo._errors import CeloError
from celo.optimizers import UpdateRule, scale_by_celo_rule

KERNELS = ["xla", "native"] if _compile.find_compiler() else ["xla"]
SOME = slow_but(KERNELS[-1:], KERNELS)
LAYERS = 3
SHAPES = {"kernel": (4, 5), "bias": (5,), "gain": (), "conv": (2, 2, 3, 2)}


def draw(seed):
    keys = jax.random.split(jax.random.key(seed), len(SHAPES))
    # Layers of very different sizes, so that mixing them would show.
    size = 10.0 ** jnp.arange(LAYERS, dtype=jnp.float32)
    stacked = {
        name: jax.random.normal(k, (LAYERS, *shape)) * size.reshape(LAYERS, *[1] * len(shape))
        for k, (name, shape) in zip(keys, SHAPES.items(), strict=True)
    }
    return {"blocks": stacked, "head": jax.random.normal(keys[0], (5, 2))}


def steps(tx, params, grads, count=2):
    def step(state, _):
        updates, state = tx.update(grads, state, params)
        return state, updates

    state, updates = jax.jit(lambda: jax.lax.scan(step, tx.init(params), length=count))()
    return jax.tree.map(lambda u: u[-1], updates), state


def layer(tree, i):
    return jax.tree.map(lambda x: x[i], tree)


def unstacked(tree):
    return {"head": tree["head"], **{f"layer{i}": layer(tree["blocks"], i) for i in range(LAYERS)}}


@pytest.mark.parametrize("kernel", SOME)
def test_a_stack_is_its_layers(theta, kernel):
    """And not what it is without `per_layer`."""
    params, grads = draw(0), draw(1)
    tx = scale_by_celo_rule(theta, kernel=kernel, per_layer={"blocks": 1, "head": 0})
    updates, state = steps(tx, params, grads)
    alone, alone_state = steps(scale_by_celo_rule(theta, kernel=kernel), unstacked(params), unstacked(grads))
    for ours, theirs in ((updates, alone), (state.momenta[2], alone_state.momenta[2])):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-7 * np.abs(b).max()),
            unstacked(ours),
            theirs,
        )
    mixed, _ = steps(scale_by_celo_rule(theta, kernel=KERNELS[-1]), params, grads)
    assert np.abs(mixed["blocks"]["kernel"] / updates["blocks"]["kernel"] - 1).max() > 0.1
    np.testing.assert_allclose(mixed["head"], updates["head"], rtol=2e-4)


def test_two_axes_of_layers(theta):
    param, grad = (jax.random.normal(jax.random.key(i), (2, 3, 4, 5)) for i in range(2))
    updates, state = steps(scale_by_celo_rule(theta, kernel=KERNELS[-1], per_layer=2), param, grad)
    flat = scale_by_celo_rule(theta, kernel=KERNELS[-1], per_layer=1)
    expected, _ = steps(flat, param.reshape(6, 4, 5), grad.reshape(6, 4, 5))
    np.testing.assert_allclose(updates.reshape(6, 4, 5), expected, rtol=1e-5)
    assert {leaf.shape for leaf in jax.tree.leaves((state.row, state.col))} == {(2, 3, 4, 1), (2, 3, 1, 5)}


def test_a_function_masks_and_shapes(theta):
    """A function of the parameters; masked leaves; shapes in place of arrays; empty stacks; no axis left."""
    tx = scale_by_celo_rule(theta, kernel=KERNELS[-1], per_layer=lambda params: {"blocks": 1, "head": False})
    params = draw(0)
    shapes = jax.eval_shape(lambda: params)
    structure = jax.tree.structure(tx.init(params))
    assert jax.tree.structure(tx.init(shapes)) == structure
    masked = optax.masked(tx, {"blocks": True, "head": False})
    updates, _ = steps(masked, params, draw(1))
    np.testing.assert_array_equal(updates["head"], draw(1)["head"])
    empty = {"blocks": jnp.zeros((0, 4, 5)), "head": jnp.zeros((5, 0))}
    assert steps(tx, empty, empty)[0]["blocks"].shape == (0, 4, 5)
    scalars = scale_by_celo_rule(theta, kernel=KERNELS[-1], per_layer=1)
    pair, _ = steps(scalars, jnp.asarray([1.0, 50.0]), jnp.asarray([1.0, -1.0]))
    alone, _ = steps(scale_by_celo_rule(theta, kernel=KERNELS[-1]), jnp.float32(50.0), jnp.float32(-1.0))
    np.testing.assert_allclose(pair[1], alone, rtol=1e-5)


def test_what_does_not_fit_is_refused(theta):
    params = {"w": jnp.ones((2, 3)), "b": jnp.ones(3)}
    for bad, message in (
        (2, r"from 0 to 1 for a tensor of shape \(3,\), got 2"),
        (-1, r"got -1; give the number of leading axes"),
        (1.0, "got 1.0"),
        ({"w": 1}, "a pytree prefix of the parameters"),
        (lambda p: {"w": 1, "b": 0, "c": 0}, "a pytree prefix of the parameters"),
    ):
        with pytest.raises(CeloError, match=message):
            scale_by_celo_rule(theta, per_layer=bad).init(params)


# Tensors that begin at zero


@pytest.mark.parametrize("kernel", SOME)
def test_min_rms_is_a_floor_of_the_size_that_a_step_is_taken_for(theta, kernel):
    params = {"zero": jnp.zeros((4, 3)), "small": 0.001 * jnp.ones(3), "large": jnp.full((2, 2), -3.0)}
    grads = jax.tree.map(lambda p: jnp.cos(jnp.arange(p.size, dtype=jnp.float32)).reshape(p.shape), params)
    plain, _ = steps(scale_by_celo_rule(theta, kernel=kernel), params, grads)
    floored, _ = steps(scale_by_celo_rule(theta, kernel=kernel, min_rms=0.05), params, grads)
    np.testing.assert_allclose(floored["zero"], plain["zero"] * (0.05 / 1e-9**0.5), rtol=1e-4)
    np.testing.assert_allclose(floored["small"], plain["small"] * (0.05 / (1e-6 + 1e-9) ** 0.5), rtol=1e-4)
    np.testing.assert_array_equal(floored["large"], plain["large"])


@pytest.mark.parametrize("kernel", SOME)
def test_weights_may_say_the_floor_and_the_caller_overrules_them(theta, kernel):
    params = {"zero": jnp.zeros((4, 3)), "large": jnp.full((2, 2), -3.0), "none": jnp.zeros((0, 2))}
    grads = jax.tree.map(jnp.ones_like, params)
    floor = {"log_min_rms": jnp.float32(np.log(0.05))}
    saying = {**theta, "update_rule": {**theta["update_rule"], **floor}}

    def updates(weights, **options):
        return steps(scale_by_celo_rule(weights, kernel=kernel, **options), params, grads)[0]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6),
        updates(saying),
        updates(theta, min_rms=0.05),
    )
    jax.tree.map(np.testing.assert_array_equal, updates(saying, min_rms=0), updates(theta))
    with pytest.raises(CeloError, match="unexpected: update_rule/log_min"):
        updates({"update_rule": {**theta["update_rule"], "log_min": floor["log_min_rms"]}})


@pytest.mark.parametrize("bad", [-0.1, float("inf"), float("nan")])
def test_bad_min_rms(theta, bad):
    with pytest.raises(CeloError, match="min_rms must be finite and at least 0"):
        scale_by_celo_rule(theta, min_rms=bad)
    with pytest.raises(CeloError, match="min_rms"):
        UpdateRule(min_rms=bad)
