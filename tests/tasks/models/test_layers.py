"""Shared layers against the same written out in NumPy."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks._models.layers import Blocks, Conv, Perceptron
from celo.tasks._module import NOISE


def started(module, x):
    """Parameters without zeros: those of the module, shaken."""
    params = jax.jit(lambda key: module.init(key, x, train=False)["params"])(jax.random.key(0))
    return jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)


def apply(module, params, x, *, train=False, seed=0, **settings):
    @jax.jit
    def run(params, key):
        return module.apply({"params": params}, x, train=train, rngs={NOISE: key}, **settings)

    return np.asarray(run(params, jax.random.key(seed)))


def dense(layer, x):
    return x @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


def layer_norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


# Perceptron


@pytest.mark.parametrize("norm", [False, True])
def test_a_perceptron_is_dense_layers_each_normed_before_its_activation(norm):
    module = Perceptron((5, 4), 3, activation=jnp.tanh, layer_norm=norm)
    x = np.asarray(jax.random.normal(jax.random.key(1), (6, 2, 2)))
    params = started(module, x)
    hidden = x.reshape(6, 4)
    for layer in (0, 1):
        hidden = dense(params[f"Dense_{layer}"], hidden)
        hidden = np.tanh(layer_norm(params[f"LayerNorm_{layer}"], hidden) if norm else hidden)
    np.testing.assert_allclose(
        apply(module, params, x), dense(params["Dense_2"], hidden), rtol=1e-4, atol=1e-5
    )
    assert params.keys() == {f"Dense_{i}" for i in range(3)} | (
        {"LayerNorm_0", "LayerNorm_1"} if norm else set()
    )


def test_a_perceptron_without_hidden_layers_is_linear():
    module, x = Perceptron((), 3), np.ones((2, 4), np.float32)
    params = started(module, x)
    np.testing.assert_allclose(apply(module, params, x), dense(params["Dense_0"], x), rtol=1e-5)


def test_dropout_silences_units_in_training_and_makes_the_others_louder():
    """A hidden layer of ones into a sum: a share of the units remains, each worth one over that share."""
    module = Perceptron((2000,), 1, dropout=0.25)
    x = np.ones((1, 1), np.float32)
    params = {
        "Dense_0": {"kernel": jnp.ones((1, 2000)), "bias": jnp.zeros(2000)},
        "Dense_1": {"kernel": jnp.full((2000, 1), 1 / 2000), "bias": jnp.zeros(1)},
    }
    assert apply(module, params, x) == pytest.approx(1.0, rel=1e-5)
    found = [float(apply(module, params, x, train=True, seed=seed)[0, 0]) for seed in range(3)]
    kept = np.array(found) * 0.75 * 2000
    np.testing.assert_allclose(kept, kept.round(), atol=0.02)
    assert len(set(found)) == 3
    assert (np.abs(kept - 1500) < 5 * np.sqrt(2000 * 0.75 * 0.25)).all()


# Convolution


def test_a_convolution_is_flaxs():
    x = jax.random.normal(jax.random.key(1), (2, 7, 6, 3))
    ours, flaxs = Conv(4, (3, 3), strides=2), nn.Conv(4, (3, 3), strides=2)
    params = ours.init(jax.random.key(0), x)
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, flaxs.init(jax.random.key(0), x))
    np.testing.assert_allclose(ours.apply(params, x), flaxs.apply(params, x), rtol=1e-4, atol=1e-5)


# Transformer blocks


def attention(layer, x, mask=None):
    """Every head by itself: softmax of scaled products of queries and keys, then a sum of values."""
    query, key, value = (
        np.einsum("bld,dhs->bhls", x, layer[name]["kernel"]) + np.asarray(layer[name]["bias"])[:, None]
        for name in ("query", "key", "value")
    )
    scores = query @ key.swapaxes(-1, -2) / np.sqrt(query.shape[-1])
    scores = scores if mask is None else np.where(mask, scores, -np.inf)
    shares = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = shares / shares.sum(-1, keepdims=True) @ value
    return np.einsum("bhls,hsd->bld", mixed, layer["out"]["kernel"]) + np.asarray(layer["out"]["bias"])


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def blocks(params, depth, x, mask=None):
    x = x + np.asarray(params["positions"]) if "positions" in params else x
    for i in range(depth):
        x = x + attention(
            params[f"MultiHeadDotProductAttention_{i}"], layer_norm(params[f"LayerNorm_{2 * i}"], x), mask
        )
        inner = gelu(dense(params[f"Dense_{2 * i}"], layer_norm(params[f"LayerNorm_{2 * i + 1}"], x)))
        x = x + dense(params[f"Dense_{2 * i + 1}"], inner)
    return layer_norm(params[f"LayerNorm_{2 * depth}"], x)


X = np.asarray(jax.random.normal(jax.random.key(1), (2, 5, 6)))
CAUSAL = np.tril(np.ones((1, 1, 5, 5), bool))


@pytest.mark.parametrize(
    ("settings", "mask"),
    [
        ({}, None),
        pytest.param({"head_size": 4}, None, marks=pytest.mark.slow),
        ({"positions": False}, CAUSAL),
    ],
)
def test_blocks_are_attention_and_a_perceptron_each_after_a_norm_and_added(settings, mask):
    module = Blocks(2, 3, **settings)
    params = started(module, X)
    found = apply(module, params, X, mask=mask)
    np.testing.assert_allclose(found, blocks(params, 2, X, mask), rtol=1e-3, atol=1e-4)
    head_size = settings.get("head_size", 2)
    assert params["MultiHeadDotProductAttention_0"]["query"]["kernel"].shape == (6, 3, head_size)
    assert ("positions" in params) == settings.get("positions", True)


def test_without_positions_an_order_is_kept_and_not_seen():
    module = Blocks(1, 2, positions=False)
    params, order = started(module, X), np.array([3, 0, 4, 1, 2])
    np.testing.assert_allclose(
        apply(module, params, X[:, order]), apply(module, params, X)[:, order], rtol=1e-4, atol=1e-5
    )
    knowing = Blocks(1, 2)
    params = started(knowing, X)
    moved = apply(knowing, params, X[:, order]) - apply(knowing, params, X)[:, order]
    assert np.abs(moved).max() > 0.1


def test_dropout_in_blocks_is_of_training_alone():
    module = Blocks(1, 2, dropout=0.5)
    params = started(module, X)
    still, loud, other = (
        apply(module, params, X, train=train, seed=seed) for train, seed in ((False, 1), (True, 1), (True, 2))
    )
    np.testing.assert_allclose(still, blocks(params, 1, X), rtol=1e-3, atol=1e-4)
    assert np.abs(loud - still).max() > 0.1
    assert np.abs(loud - other).max() > 0.1


def test_weights_are_drawn_by_the_initializer_that_is_given():
    """All but those of norms and biases."""
    module = Blocks(1, 2, kernel_init=nn.initializers.constant(0.125))
    params = module.init(jax.random.key(0), X, train=False)["params"]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = path[-1].key
        if name == "kernel":
            assert (leaf == 0.125).all(), jax.tree_util.keystr(path)
        elif name == "bias":
            assert not leaf.any()
