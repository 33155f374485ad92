"""Haiku: parameters are a plain dict of dicts, so nothing needs adapting.

python examples/haiku_loop.py
"""

import haiku as hk
import jax
import jax.numpy as jnp
import optax

import celo
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64

model = hk.without_apply_rng(hk.transform(lambda x: hk.nets.MLP([64, 10])(x)))


def loss_fn(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), y).mean()


def main(weights="celo"):
    digits = load_images("digits")
    x, y = (jnp.asarray(digits.train.x.reshape(-1, 64) / 255.0, jnp.float32), jnp.asarray(digits.train.y))
    tx = celo.celo(num_steps=NUM_STEPS, weights=weights)  # was: optax.adam(1e-3)

    @jax.jit
    def step(params, state, key):
        index = jax.random.randint(key, (BATCH,), 0, len(y))
        loss, grads = jax.value_and_grad(loss_fn)(params, x[index], y[index])
        updates, state = tx.update(grads, state, params, value=loss)  # was: without value=loss
        return optax.apply_updates(params, updates), state, loss

    params = model.init(jax.random.key(0), x[:1])
    state = tx.init(params)
    for i, key in enumerate(jax.random.split(jax.random.key(1), NUM_STEPS)):
        params, state, loss = step(params, state, key)
        if i % 50 == 49:
            print(f"step {i + 1}: loss {loss:.4f}")

    logits = model.apply(params, jnp.asarray(digits.test.x.reshape(-1, 64) / 255.0, jnp.float32))
    accuracy = jnp.mean(logits.argmax(-1) == digits.test.y)
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
