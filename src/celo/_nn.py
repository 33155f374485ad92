"""The small networks of learned optimizers, as functions of plain arrays."""

import jax
import jax.numpy as jnp

from celo._types import Array, Key


def truncated_normal_fan_in(key: Key, shape: tuple[int, ...], fan_in: int) -> Array:
    """Weights from a normal truncated at two deviations, scaled by 1/sqrt(fan_in); float32."""
    return jax.random.truncated_normal(key, -2.0, 2.0, shape, jnp.float32) / jnp.sqrt(jnp.float32(fan_in))


def lstm_step(x: Array, hidden: Array, cell: Array, w: Array, b: Array) -> tuple[Array, Array]:
    """One step of an LSTM whose forget gate is shifted by one.

    Args:
      x: input, shape [inputs].
      hidden: previous output, shape [units].
      cell: previous memory, shape [units].
      w: weights, shape [inputs + units, 4 * units]; gates in the order input, candidate, forget, output.
      b: biases, shape [4 * units].

    Returns:
      The new hidden and cell vectors, shape [units] each.
    """
    gates = jnp.concatenate([x, hidden]) @ w + b
    write, candidate, forget, read = jnp.split(gates, 4)
    cell = jax.nn.sigmoid(forget + 1.0) * cell + jax.nn.sigmoid(write) * jnp.tanh(candidate)
    return jax.nn.sigmoid(read) * jnp.tanh(cell), cell
