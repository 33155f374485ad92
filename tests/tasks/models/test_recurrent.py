"""Recurrent language models against their recurrences written out."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import stand_ins

from celo.tasks._models.recurrent import LanguageRNN, language_model

TOKENS = np.asarray([[1, 4, 0, 3], [2, 2, 3, 1]])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm(layer, x, state):
    """Gates i, f, g, o, each of the input (without a bias) and of the hidden vector."""
    hidden, cell = state

    def gate(name):
        of_hidden = hidden @ layer[f"h{name}"]["kernel"] + layer[f"h{name}"]["bias"]
        return x @ layer[f"i{name}"]["kernel"] + of_hidden

    cell = sigmoid(gate("f")) * cell + sigmoid(gate("i")) * np.tanh(gate("g"))
    return sigmoid(gate("o")) * np.tanh(cell), cell


def gru(layer, x, state):
    """Reset r acts on what the hidden vector gives to the candidate n; update z keeps the old one."""
    hidden, _ = state

    def dense(name, value):
        return value @ layer[name]["kernel"] + layer[name].get("bias", 0.0)

    reset = sigmoid(dense("ir", x) + dense("hr", hidden))
    update = sigmoid(dense("iz", x) + dense("hz", hidden))
    candidate = np.tanh(dense("in", x) + reset * dense("hn", hidden))
    return (1 - update) * candidate + update * hidden, None


@pytest.fixture(scope="module", params=["lstm", "gru"])
def model(request):
    """(cell, parameters without zeros as NumPy arrays, a function: tokens -> logits)."""
    module = LanguageRNN(5, request.param, width=3, embedding=4)
    params = jax.jit(lambda key: module.init(key, TOKENS, train=False)["params"])(jax.random.key(0))
    params = jax.tree.map(lambda p: p + 0.3 * jax.random.normal(jax.random.key(p.size), p.shape), params)
    run = jax.jit(lambda tokens: module.apply({"params": params}, tokens, train=True))
    return request.param, jax.device_get(params), run


def test_logits_are_those_of_the_recurrence_from_zero(model):
    cell, params, run = model
    found = run(TOKENS)
    [layer] = [part for name, part in params.items() if name not in ("Embed_0", "Dense_0")]
    state = np.zeros((2, 3)), np.zeros((2, 3))
    for position in range(4):
        x = params["Embed_0"]["embedding"][TOKENS[:, position]]
        state = {"lstm": lstm, "gru": gru}[cell](layer, x, state)
        expected = state[0] @ params["Dense_0"]["kernel"] + params["Dense_0"]["bias"]
        np.testing.assert_allclose(found[:, position], expected, rtol=1e-3, atol=1e-5)


def test_a_token_is_predicted_from_those_before_it(model):
    _, _, run = model
    changed = TOKENS.copy()
    changed[:, 2] = 4 - changed[:, 2]
    before, after = run(TOKENS), run(changed)
    np.testing.assert_array_equal(before[:, :2], after[:, :2])
    assert (np.abs(before[:, 2:] - after[:, 2:]).max(axis=(1, 2)) > 1e-3).all()


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_the_family_is_of_the_texts_characters(cell, monkeypatch):
    monkeypatch.setattr("celo.tasks._sources.load_text", stand_ins.text)
    family = language_model("austen", cell=cell, length=7, width=3, embedding=4, batch_size=2)
    characters = stand_ins.CHARACTERS["austen"]
    assert family.members == ("austen",)
    assert family.loss_cap == 1.5 * math.log(characters)
    task = family.sample(jax.random.key(0), jnp.int32(0))
    inputs, targets = family.batch(task, "train", family.draw(jax.random.key(0), 1)[0])
    assert inputs.shape == targets.shape == (2, 7)
    logits = jax.eval_shape(
        lambda key: family.module.init_with_output(key, inputs, train=False)[0], jax.random.key(0)
    )
    assert logits.shape == (2, 7, characters)
