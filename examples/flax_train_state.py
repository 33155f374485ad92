"""Flax Linen with a TrainState: its own apply_gradients drops the loss, the function here passes it on.

python examples/flax_train_state.py
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from flax.training.train_state import TrainState

import celo
from celo.data import load_images

NUM_STEPS, BATCH = 300, 64


class Classifier(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(10)(nn.relu(nn.Dense(64)(x)))


def apply_gradients(state, grads, loss):
    updates, opt_state = state.tx.update(grads, state.opt_state, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    return state.replace(step=state.step + 1, params=params, opt_state=opt_state)


@jax.jit
def step(state, x, y, key):
    index = jax.random.randint(key, (BATCH,), 0, len(y))

    def loss_fn(params):
        logits = state.apply_fn(params, x[index])
        return optax.softmax_cross_entropy_with_integer_labels(logits, y[index]).mean()

    loss, grads = jax.value_and_grad(loss_fn)(state.params)
    return apply_gradients(state, grads, loss), loss  # was: state.apply_gradients(grads=grads)


def main(weights="celo"):
    digits = load_images("digits")
    x, y = (jnp.asarray(digits.train.x.reshape(-1, 64) / 255.0, jnp.float32), jnp.asarray(digits.train.y))
    model = Classifier()
    tx = celo.celo(num_steps=NUM_STEPS, weights=weights)  # was: optax.adam(1e-3)
    params = model.init(jax.random.key(0), x[:1])
    state = TrainState.create(apply_fn=model.apply, params=params, tx=tx)
    for i, key in enumerate(jax.random.split(jax.random.key(1), NUM_STEPS)):
        state, loss = step(state, x, y, key)
        if i % 50 == 49:
            print(f"step {i + 1}: loss {loss:.4f}")

    logits = jnp.asarray(model.apply(state.params, digits.test.x.reshape(-1, 64) / 255.0))
    accuracy = jnp.mean(logits.argmax(-1) == digits.test.y)
    print(f"test accuracy {accuracy:.3f}")
    return float(accuracy)


if __name__ == "__main__":
    main()
