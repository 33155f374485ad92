"""Final loss at several horizons beside Adam's, tuned under a cosine for each task and horizon.

    python -m benchmarks.horizons                       # on some tasks of suite `probe`
    python -m benchmarks.horizons --weights celo-1 --tasks letters_mlp_relu

A run's loss is the mean over its last twentieth, then over seeds. The ratio is Adam's at the best of its
rates over Celo's, neither below 0.001, so that above 1 Celo ends lower. The table ends with interquartile
means over tasks.
"""

import argparse
import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
from rich.console import Console
from rich.table import Table

import celo
from celo.evaluate import aggregate
from celo.tasks import make_task
from celo.tasks._base import value_and_grad

HORIZONS = (100, 300, 1_000, 6_000, 20_000)
RATES = tuple(10.0 ** (exponent / 2) for exponent in range(-8, -1))  # 1e-4 to 0.1
SEEDS = (0, 1)
FLOOR = 1e-3  # losses below are those of data learned by heart, and their ratio says nothing
# Of `probe` those whose runs of 20,000 steps end in minutes, of all of its kinds but language.
TASKS = (
    *("digits_autoencoder", "flower_fourier", "letters_mlp_layernorm", "letters_mlp_relu"),
    *("letters_mlp_tanh", "satellite_mlp_relu"),
)


def adam_cosine(rate, num_steps):
    return optax.adam(lambda count: 0.5 * rate * (1.0 + jnp.cos(math.pi * count / num_steps)))


def final_loss(family, tx, num_steps, seed):
    """Mean training loss over the last twentieth of a run; `num_steps` may be traced."""
    key = jax.random.key(seed)
    task = family.sample(key, jnp.zeros((), jnp.int32))
    params, model_state = task.init(key)
    tx, last = optax.with_extra_args_support(tx), jnp.maximum(num_steps // 20, 1)

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
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS)
    parser.add_argument("--weights", default="celo")
    parser.add_argument("--kernel", default="auto")
    parser.add_argument("--horizons", nargs="+", type=int, default=HORIZONS)
    options = parser.parse_args()
    make_celo = partial(celo.celo, weights=options.weights, kernel=options.kernel)
    table = Table("task", *(f"{horizon:,}" for horizon in options.horizons))
    ratios = []
    for name in options.tasks:
        family = make_task(name)

        @jax.jit
        def adams(num_steps, seed, family=family):
            def of_rate(rate):
                return final_loss(family, adam_cosine(rate, num_steps), num_steps, seed)

            return jax.lax.map(of_rate, jnp.asarray(RATES, jnp.float32))

        @jax.jit
        def celos(num_steps, seed, family=family):
            return final_loss(family, make_celo(num_steps), num_steps, seed)

        ratios.append([])
        for horizon in options.horizons:
            runs = [(jnp.asarray(horizon, jnp.int32), jnp.asarray(seed, jnp.uint32)) for seed in SEEDS]
            by_rate = np.mean([adams(*run) for run in runs], axis=0)
            best = int(np.nanargmin(by_rate))
            mine = float(np.mean([celos(*run) for run in runs]))
            ratios[-1].append(max(by_rate[best], FLOOR) / max(mine, FLOOR))
            print(
                f"{name:24s} {horizon:7,} steps: celo {mine:.4g}, adam {by_rate[best]:.4g} "
                f"at {RATES[best]:.2g}, ratio {ratios[-1][-1]:.2f}",
                flush=True,
            )
        table.add_row(name, *(f"{ratio:.2f}" for ratio in ratios[-1]))
    table.add_row("interquartile mean", *(f"{float(aggregate.iqm(row)):.2f}" for row in np.transpose(ratios)))
    Console().print(table)


if __name__ == "__main__":
    main()
