"""The small networks against their definitions in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from celo._nn import lstm_step, truncated_normal_fan_in


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_lstm_step_is_its_definition():
    rng = np.random.default_rng(0)
    inputs, units = 3, 5
    x, hidden, cell = rng.normal(size=inputs), rng.normal(size=units), rng.normal(size=units)
    w, b = rng.normal(size=(inputs + units, 4 * units)), rng.normal(size=4 * units)
    ours = lstm_step(*(jnp.asarray(a, jnp.float32) for a in (x, hidden, cell, w, b)))
    gates = np.concatenate([x, hidden]) @ w + b
    i, g, f, o = gates[:5], gates[5:10], gates[10:15], gates[15:]
    new_cell = sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(g)
    np.testing.assert_allclose(ours[1], new_cell, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(ours[0], sigmoid(o) * np.tanh(new_cell), rtol=1e-5, atol=1e-6)


def test_an_lstm_of_zero_weights_forgets_a_quarter_in_each_step():
    """Its forget gate is a sigmoid of one, 0.73; the others are a half, and the candidate is zero."""
    x, zeros, cell = jnp.ones(2), jnp.zeros(3), jnp.asarray([1.0, -2.0, 0.0])
    hidden, after = lstm_step(x, zeros, cell, jnp.zeros((5, 12)), jnp.zeros(12))
    np.testing.assert_allclose(after, 0.731059 * cell, rtol=1e-5)
    np.testing.assert_allclose(hidden, np.tanh(after) / 2, rtol=1e-5)


def test_weights_are_of_a_normal_cut_at_two_deviations_over_the_root_of_the_fan_in(key):
    """Whose deviation is 0.8796, as is worked out from the densities at the cuts."""
    weights = truncated_normal_fan_in(key, (100, 200), 25)
    assert (weights.shape, weights.dtype) == ((100, 200), jnp.float32)
    assert 1.99 < 5 * np.abs(weights).max() <= 2.0
    assert abs(5 * weights.mean()) < 4 * 0.8796 / np.sqrt(weights.size)
    np.testing.assert_allclose(5 * weights.std(), 0.8796, atol=0.01)
    # Within one deviation lie 68.27 % of a whole normal, 71.5 % of one without its tails.
    np.testing.assert_allclose((np.abs(5 * weights) < 1).mean(), 0.6827 / 0.9545, atol=0.015)


def test_outputs_of_a_fresh_layer_are_as_large_whatever_its_width():
    """They have 0.88 of the deviation of the inputs."""
    for width in (16, 400):
        x = jax.random.normal(jax.random.key(1), (2000, width))
        out = x @ truncated_normal_fan_in(jax.random.key(2), (width, width), width)
        np.testing.assert_allclose(out.std(), 0.88, atol=0.05)
