"""Flax NNX: nnx.Optimizer passes `value=` on to the transformation.

python examples/flax_nnx.py
"""

import jax
import jax.numpy as jnp
import optax
from flax import nnx

import celo
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


class Classifier(nnx.Module):
    def __init__(self, rngs):
        self.hidden = nnx.Linear(64, 64, rngs=rngs)
        self.out = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(nnx.relu(self.hidden(x)))


def loss_fn(model, x, y):
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def step(model, optimizer, x, y, key):
    index = jax.random.randint(key, (BATCH,), 0, len(y))
    loss, grads = nnx.value_and_grad(loss_fn)(model, x[index], y[index])
    optimizer.update(model, grads, value=loss)  # was: without value=loss
    return loss


def main(weights="celo"):
    digits = load_images("digits")
    x, y = (jnp.asarray(digits.train.x.reshape(-1, 64) / 255.0, jnp.float32), jnp.asarray(digits.train.y))
    model = Classifier(nnx.Rngs(0))
    tx = celo.celo(num_steps=NUM_STEPS, weights=weights)  # was: optax.adam(1e-3)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    for i, key in enumerate(jax.random.split(jax.random.key(1), NUM_STEPS)):
        loss = step(model, optimizer, x, y, key)
        if i % 50 == 49:
            print(f"step {i + 1}: loss {loss:.4f}")

    logits = model(jnp.asarray(digits.test.x.reshape(-1, 64) / 255.0, jnp.float32))
    accuracy = jnp.mean(logits.argmax(-1) == digits.test.y)
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
