"""Horizons inside and outside what the weights were meta-trained on: final loss beside tuned Adam's.

python -m benchmarks.horizons --tasks mnist_8x8_mlp32 cifar10_8x8_mlp32
"""

import argparse
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

import celo
from celo.tasks import make_task
from celo.tasks._base import value_and_grad

HORIZONS = (3, 10, 30, 100, 300, 1_000, 2_000, 6_000, 20_000, 60_000)
RATES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
SEEDS = (0, 1)


def final_loss(family, tx, num_steps, seed):
    """Mean training loss over the last tenth of a run; `num_steps` may be traced."""
    key = jax.random.key(seed)
    task = family.sample(key, jnp.zeros((), jnp.int32))
    params, model_state = task.init(key)
    tx, last = optax.with_extra_args_support(tx), jnp.maximum(num_steps // 10, 1)

    def step(i, carry):
        params, model_state, state, total = carry
        key_step = jax.random.fold_in(key, i)
        batch = family.batch(task, "train", jax.tree.map(lambda x: x[0], family.draw(key_step, 1)))
        loss, grads, model_state = value_and_grad(task, params, model_state, key_step, batch)
        updates, state = tx.update(grads, state, params, value=loss)
        total = total + jnp.where(i >= num_steps - last, loss / last, 0.0)
        return optax.apply_updates(params, updates), model_state, state, total

    start = (params, model_state, tx.init(params), jnp.zeros(()))
    return jax.lax.fori_loop(0, num_steps, step, start)[3]


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", required=True)
    parser.add_argument("--weights", default="celo")
    parser.add_argument("--kernel", default="native")
    options = parser.parse_args()
    make_celo = partial(celo.celo, weights=options.weights, kernel=options.kernel)
    for name in options.tasks:
        family = make_task(name)

        @jax.jit
        def adams(num_steps, seed, family=family):
            rates = jnp.asarray(RATES, jnp.float32)
            return jax.vmap(lambda rate: final_loss(family, optax.adam(rate), num_steps, seed))(rates)

        @jax.jit
        def celos(num_steps, seed, family=family):
            return final_loss(family, make_celo(num_steps), num_steps, seed)

        for horizon in HORIZONS:
            runs = [(jnp.asarray(horizon, jnp.int32), jnp.asarray(seed, jnp.uint32)) for seed in SEEDS]
            by_rate = np.mean([adams(*run) for run in runs], axis=0)
            best = int(np.nanargmin(by_rate))
            mine = float(np.mean([celos(*run) for run in runs]))
            print(
                f"{name:24s} {horizon:7,} steps: celo {mine:.4g}, adam {by_rate[best]:.4g} "
                f"at {RATES[best]:g}, ratio {by_rate[best] / mine:.2f}",
                flush=True,
            )


if __name__ == "__main__":
    main()
