"""Equinox: the model is a pytree; the optimizer gets its arrays.

python examples/equinox_loop.py
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

import celo
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


def loss_fn(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(jax.vmap(model)(x), y).mean()


def main(weights="celo"):
    digits = load_images("digits")
    x, y = (jnp.asarray(digits.train.x.reshape(-1, 64) / 255.0, jnp.float32), jnp.asarray(digits.train.y))
    model = eqx.nn.MLP(64, 10, width_size=64, depth=1, key=jax.random.key(0))
    tx = celo.celo(num_steps=NUM_STEPS, weights=weights)  # was: optax.adam(1e-3)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    @eqx.filter_jit
    def step(model, state, key):
        index = jax.random.randint(key, (BATCH,), 0, len(y))
        loss, grads = eqx.filter_value_and_grad(loss_fn)(model, x[index], y[index])
        params = eqx.filter(model, eqx.is_inexact_array)
        updates, state = tx.update(grads, state, params, value=loss)  # was: without value=loss
        return eqx.apply_updates(model, updates), state, loss

    for i, key in enumerate(jax.random.split(jax.random.key(1), NUM_STEPS)):
        model, state, loss = step(model, state, key)
        if i % 50 == 49:
            print(f"step {i + 1}: loss {loss:.4f}")

    logits = jax.vmap(model)(jnp.asarray(digits.test.x.reshape(-1, 64) / 255.0, jnp.float32))
    accuracy = jnp.mean(logits.argmax(-1) == digits.test.y)
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
