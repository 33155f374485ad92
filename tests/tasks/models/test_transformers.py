"""Transformers and the Mixer: what each part sees of an image or a text, and the Mixer written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins

from celo.tasks._models.transformers import (
    CausalTransformer,
    Mixer,
    VisionTransformer,
    language_model,
    mixer,
    vision_transformer,
)
from celo.tasks._module import NOISE

IMAGES = np.asarray(jax.random.normal(jax.random.key(1), (2, 4, 6, 3)))
TOKENS = np.asarray([[1, 4, 0, 3, 2], [2, 2, 3, 1, 0]])


def network(module, x):
    """(parameters without zeros as NumPy arrays, a function of them and of inputs)."""
    params = jax.jit(lambda key: module.init(key, x, train=False)["params"])(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    run = jax.jit(lambda params, x: module.apply({"params": params}, x, train=False))
    return jax.device_get(params), run


def size(params):
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def swapped(images):
    """The first two patches of 2 x 2 in each other's places."""
    other = images.copy()
    other[:, :2, :2], other[:, :2, 2:4] = images[:, :2, 2:4], images[:, :2, :2]
    return other


def test_a_vision_transformer_sees_patches_at_their_positions():
    params, run = network(VisionTransformer(5, patch=2, width=4, depth=1, heads=2), IMAGES)
    logits = run(params, IMAGES)
    assert logits.shape == (2, 5)
    assert np.abs(run(params, swapped(IMAGES)) - logits).max() > 1e-3
    # All that tells them apart are the positions: without them the mean over patches has no order.
    blind = {**params, "Blocks_0": {**params["Blocks_0"], "positions": np.zeros((6, 4), np.float32)}}
    np.testing.assert_allclose(run(blind, swapped(IMAGES)), run(blind, IMAGES), rtol=1e-3, atol=1e-4)


def test_the_size_of_a_vision_transformer_is_that_of_its_parts():
    """Patches 12-4; positions 6 * 4; a block of two norms, four products of 4-4 and 4-16-4; a norm; 4-5."""
    module = VisionTransformer(5, patch=2, width=4, depth=2, heads=2)
    shapes = jax.eval_shape(lambda key: module.init(key, IMAGES, train=False)["params"], jax.random.key(0))
    block = 2 * 8 + 4 * (16 + 4) + (64 + 16) + (64 + 4)
    assert size(shapes) == (48 + 4) + 24 + 2 * block + 8 + (20 + 5)


def layer_norm(layer, x):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * layer["scale"] + layer["bias"]


def dense(layer, x):
    return x @ layer["kernel"] + layer["bias"]


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def test_a_mixer_mixes_patches_of_a_channel_then_channels_of_a_patch():
    params, run = network(Mixer(5, patch=2, width=4, depth=2), IMAGES)
    layers, norms = (
        iter([params[f"{kind}_{i}"] for i in range(n)]) for kind, n in (("Dense", 10), ("LayerNorm", 5))
    )
    patches = IMAGES.reshape(2, 2, 2, 3, 2, 3).swapaxes(2, 3).reshape(2, 6, 12)
    x = dense(next(layers), patches)

    def mixed(x):
        out, into = next(layers), next(layers)  # the outer layer is made, and so named, first
        assert into["kernel"].shape == out["kernel"].shape[::-1] == (x.shape[-1], 2 * x.shape[-1])
        return dense(out, gelu(dense(into, x)))

    for _ in range(2):
        x = x + mixed(layer_norm(next(norms), x).swapaxes(1, 2)).swapaxes(1, 2)
        x = x + mixed(layer_norm(next(norms), x))
    expected = dense(next(layers), layer_norm(next(norms), x).mean(1))
    np.testing.assert_allclose(run(params, IMAGES), expected, rtol=1e-3, atol=1e-4)


def test_a_causal_transformer_predicts_from_what_came_before():
    params, run = network(CausalTransformer(5, width=4, depth=2, heads=2), TOKENS)
    changed = TOKENS.copy()
    changed[:, 2] = 4 - changed[:, 2]
    before, after = run(params, TOKENS), run(params, changed)
    assert before.shape == (2, 5, 5)
    np.testing.assert_allclose(before[:, :2], after[:, :2], rtol=1e-5, atol=1e-6)
    assert (np.abs(before - after).max(axis=-1)[:, 2:] > 1e-4).all()


def test_a_causal_transformer_knows_positions():
    """In a text of one letter the places are told apart."""
    params, run = network(CausalTransformer(5, width=4, depth=1, heads=2), TOKENS)
    logits = run(params, np.full((1, 5), 3))
    assert np.abs(np.diff(logits, axis=1)).max(axis=-1).min() > 1e-3


def test_dropout_of_a_causal_transformer_is_of_training_alone():
    module = CausalTransformer(5, width=8, depth=1, heads=2, dropout=0.5)
    params, run = network(module, TOKENS)
    still = run(params, TOKENS)

    @jax.jit
    def train(key):
        return module.apply({"params": params}, TOKENS, train=True, rngs={NOISE: key})

    first, again, other = (train(jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - still).max() > 1e-2
    assert np.abs(first - other).max() > 1e-2


@pytest.mark.parametrize(
    ("make", "settings"), [(vision_transformer, {"depth": 1, "width": 6}), (mixer, {"depth": 3, "width": 6})]
)
def test_families_are_classifiers_of_their_images(make, settings):
    family = make("digits", patch=2, batch_size=6, **settings)
    assert (family.members, family.loss_cap) == (("digits",), 1.5 * math.log(10))
    assert {name: getattr(family.module, name) for name in settings} == settings
    assert (family.module.classes, family.module.patch) == (10, 2)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    x, y = family.batch(task, "valid", family.draw(jax.random.key(0), 1)[0])
    assert (x.shape, y.shape) == ((6, 8, 8, 1), (6,))
    loss = jax.eval_shape(lambda key: task.loss(*task.init(key), key, (x, y))[0], jax.random.key(0))
    assert loss.shape == ()


@pytest.mark.parametrize(("dataset", "bits"), [("austen", True), ("lm1b", False)])
def test_language_models_are_of_characters_or_word_pieces(dataset, bits, monkeypatch):
    """Of a corpus in word pieces the loss in bits a character is not known."""
    monkeypatch.setattr("celo.tasks._sources.load_text", stand_ins.text)
    monkeypatch.setattr("celo.tasks._sources.load_tokens", stand_ins.tokens)
    family = language_model(dataset, length=6, width=4, depth=1, heads=2, dropout=0.25, batch_size=3)
    vocabulary = stand_ins.CHARACTERS[dataset] if bits else 32_100
    assert (family.module.vocabulary, family.module.dropout) == (vocabulary, 0.25)
    assert family.loss_cap == 1.5 * math.log(vocabulary)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    batch = family.batch(task, "train", family.draw(jax.random.key(0), 1)[0])
    assert batch[0].shape == (3, 6)
    _, (_, metrics) = jax.eval_shape(lambda key: task.loss(*task.init(key), key, batch), jax.random.key(0))
    assert ("bits_per_character" in metrics) == bits
