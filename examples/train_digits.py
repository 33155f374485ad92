"""Train a classifier with Celo instead of Adam: two lines differ from any optax loop.

python examples/train_digits.py
"""

import jax
import jax.numpy as jnp
import optax

import celo
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


def init(key):
    keys = jax.random.split(key)
    return {
        "w0": jax.random.normal(keys[0], (64, 64)) / 8,
        "b0": jnp.zeros(64),
        "w1": jax.random.normal(keys[1], (64, 10)) / 8,
        "b1": jnp.zeros(10),
    }


def logits(params, x):
    return jax.nn.relu(x @ params["w0"] + params["b0"]) @ params["w1"] + params["b1"]


def loss_fn(params, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(logits(params, x), y).mean()


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

    params = init(jax.random.key(0))
    state = tx.init(params)
    for i, key in enumerate(jax.random.split(jax.random.key(1), NUM_STEPS)):
        params, state, loss = step(params, state, key)
        if i % 50 == 49:
            print(f"step {i + 1}: loss {loss:.4f}")

    test_x = digits.test.x.reshape(-1, 64) / 255.0
    accuracy = jnp.mean(logits(params, test_x).argmax(-1) == digits.test.y)
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
