"""Convolutional networks against the same out of XLA's convolutions and norms by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from celo.tasks._models.convnets import ConvNet, ResNet, convnet, resnet

X = np.asarray(jax.random.normal(jax.random.key(1), (2, 8, 8, 3)))


def started(module):
    """(parameters, all shaken, and batch statistics) of a network on X."""
    variables = jax.jit(lambda key: module.init(key, X, train=False))(jax.random.key(0))
    params = jax.tree.map(
        lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), variables["params"]
    )
    return params, variables.get("batch_stats", {})


def apply(module, params, stats, train):
    run = jax.jit(
        lambda params: module.apply(
            {"params": params, "batch_stats": stats}, X, train=train, mutable=["batch_stats"]
        )
    )
    logits, state = run(params)
    return np.asarray(logits), state["batch_stats"] if stats else {}


def conv(layer, x, strides=1):
    x = jax.lax.conv_general_dilated(
        x, layer["kernel"], (strides, strides), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return np.asarray(x) + np.asarray(layer.get("bias", 0.0))


def normed(layer, x, axes, eps):
    x = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)
    return x * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def answer(layer, x):
    return x.mean((1, 2)) @ np.asarray(layer["kernel"]) + np.asarray(layer["bias"])


@pytest.mark.parametrize("norm", ["none", "layer", "batch"])
@pytest.mark.parametrize("norm_last", [False, True])
def test_a_convnet_is_its_layers_with_the_norm_before_or_after_the_activation(norm, norm_last):
    module = ConvNet(5, (4, 6, 6), norm, strided=2, norm_last=norm_last)
    params, stats = started(module)
    found, _ = apply(module, params, stats, train=True)
    x = X
    for layer in range(3):
        x = conv(params[f"Conv_{layer}"], x, 2 if layer < 2 else 1)
        x = np.maximum(x, 0) if norm_last else x
        if norm == "layer":
            x = normed(params[f"LayerNorm_{layer}"], x, -1, 1e-6)
        elif norm == "batch":
            x = normed(params[f"BatchNorm_{layer}"], x, (0, 1, 2), 1e-5)
        x = x if norm_last else np.maximum(x, 0)
    assert x.shape == (2, 2, 2, 6)  # halved twice
    np.testing.assert_allclose(found, answer(params["Dense_0"], x), rtol=1e-3, atol=1e-4)
    assert bool(stats) == (norm == "batch")


def test_batch_statistics_move_by_a_tenth_in_training_and_are_what_is_used_outside_of_it():
    module = ConvNet(5, (4,), "batch", strided=1)
    params, stats = started(module)
    x = conv(params["Conv_0"], X, 2)
    _, now = apply(module, params, stats, train=True)
    np.testing.assert_allclose(now["BatchNorm_0"]["mean"], 0.1 * x.mean((0, 1, 2)), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(now["BatchNorm_0"]["var"], 0.9 + 0.1 * x.var((0, 1, 2)), rtol=1e-3)
    found, after = apply(module, params, now, train=False)
    jax.tree.map(np.testing.assert_array_equal, after, now)
    norm, seen = params["BatchNorm_0"], jax.tree.map(np.asarray, now["BatchNorm_0"])
    x = (x - seen["mean"]) / np.sqrt(seen["var"] + 1e-5) * np.asarray(norm["scale"]) + np.asarray(
        norm["bias"]
    )
    np.testing.assert_allclose(found, answer(params["Dense_0"], np.maximum(x, 0)), rtol=1e-3, atol=1e-4)


def test_convolutions_halve_once_and_norms_follow_the_activation():
    module = ConvNet(10, (4, 6, 6), "layer", strided=1, norm_last=True)
    x = jax.random.normal(jax.random.key(1), (2, 8, 8, 3))

    @jax.jit
    def run(key):
        variables = module.init(key, x, train=False)
        return module.apply(variables, x, train=True, capture_intermediates=True, mutable=["intermediates"])

    _, seen = jax.device_get(run(jax.random.key(0)))
    layers = {name: found["__call__"][0] for name, found in seen["intermediates"].items() if name[0] != "_"}
    assert [layers[f"Conv_{i}"].shape for i in range(3)] == [(2, 4, 4, 4), (2, 4, 4, 6), (2, 4, 4, 6)]
    active = np.maximum(layers["Conv_2"], 0)
    expected = (active - active.mean(-1, keepdims=True)) / np.sqrt(active.var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(layers["LayerNorm_2"], expected, rtol=1e-3, atol=1e-4)


def group_norm(layer, x, groups):
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height, width, groups, channels // groups)
    x = (x - x.mean((1, 2, 4), keepdims=True)) / np.sqrt(x.var((1, 2, 4), keepdims=True) + 1e-6)
    return x.reshape(batch, height, width, channels) * np.asarray(layer["scale"]) + np.asarray(layer["bias"])


def test_a_resnet_adds_two_convolutions_to_its_input_which_later_stages_halve():
    module = ResNet(5, (4, 6), groups=2)
    params, stats = started(module)
    found, _ = apply(module, params, stats, train=True)
    convs, norms = iter(range(6)), iter(range(5))

    def active(x):
        return np.maximum(group_norm(params[f"GroupNorm_{next(norms)}"], x, 2), 0)

    def next_conv(x, strides=1):
        return conv(params[f"Conv_{next(convs)}"], x, strides)

    x = next_conv(X)
    y = active(x)
    x = x + next_conv(active(next_conv(y)))
    y = active(x)
    beside = next_conv(y, 2)
    x = beside + next_conv(active(next_conv(y, 2)))
    x = active(x)
    assert x.shape == (2, 4, 4, 6)
    np.testing.assert_allclose(found, answer(params["Dense_0"], x), rtol=1e-3, atol=1e-4)
    # 3 x 3 of 3-4, 4-4, 4-4, 4-6, 6-6 and 1 x 1 of 4-6 without biases; norms of 4, 4, 4, 6, 6; the answer.
    count = 9 * (12 + 16 + 16 + 24 + 36) + 24 + 2 * (4 + 4 + 4 + 6 + 6) + 6 * 5 + 5
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == count


@pytest.mark.parametrize(
    ("make", "settings"), [(convnet, {"norm": "batch", "channels": (4, 8)}), (resnet, {"channels": (4, 8)})]
)
def test_families_are_classifiers_of_their_images(make, settings):
    family = make("digits", batch_size=6, **settings)
    assert family.members == ("digits",)
    assert family.loss_cap == 1.5 * math.log(10)
    assert (family.module.classes, family.module.channels) == (10, (4, 8))
    task = family.sample(jax.random.key(0), jnp.int32(0))
    x, y = family.batch(task, "train", family.draw(jax.random.key(0), 1)[0])
    assert (x.shape, y.shape) == ((6, 8, 8, 1), (6,))
