"""Inner steps a second of meta-training, beside the same inner loop under optax.adam, in one run.

    python -m benchmarks.meta_train
    python -m benchmarks.meta_train --kernels native --pairs 32   # cost as particles grow

An inner step is one update of one particle. Meta-training is timed end to end: data, resets,
perturbations, the outer step. The yardstick trains the same tasks (same number, same batches, same
devices) with Adam, without perturbations, losses or meta-gradients: once split over the devices as
meta-training is, and once as plain `jax.vmap` gives it, on one device that has all threads. All take turns,
so that ratios hold when the machine's speed drifts.
"""

import argparse
import itertools
import resource
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from rich.console import Console
from rich.table import Table

from celo._kernels import native
from celo._types import Array
from celo.cli._settings import one_device_per_core
from celo.meta import RECIPES, Recipe, make_recipe
from celo.meta._outer_step import PARTICLES, PhaseProgram
from celo.meta._phases import first_theta, kinds_of, phases, task_families
from celo.tasks import TaskFamily
from celo.tasks._base import value_and_grad

OUTER_STEPS = 10  # in one timed call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--recipe", default="celo", help=f"one of {', '.join(RECIPES)}")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--pairs", type=int, default=None, help="of each kind of task (default: as the recipe)"
    )
    parser.add_argument("--truncation", type=int, default=None, help="inner steps (default: as the recipe)")
    parser.add_argument("--kernels", nargs="+", default=("native", "xla"), choices=native.KERNELS)
    parser.add_argument(
        "--orthogonalize", action=argparse.BooleanOptionalAction, help="default: as the recipe"
    )
    options = parser.parse_args()
    one_device_per_core()
    given = {
        "pairs_per_task": options.pairs,
        "truncation_length": options.truncation,
        "orthogonalize": options.orthogonalize,
    }
    recipe = make_recipe(options.recipe, **{k: v for k, v in given.items() if v is not None})
    families = task_families(recipe, phases(recipe)[0])
    particles = recipe.pairs_per_task * len(kinds_of(families))
    theta = first_theta(recipe, jax.random.key(0))

    inner_steps = 2 * particles * recipe.truncation_length * OUTER_STEPS
    contestants: dict[str, tuple[Callable[[], None], float, int]] = {}
    for kernel, phase in itertools.product(options.kernels, phases(recipe)):
        program = PhaseProgram(recipe, phase, families, kernel)
        call = _meta_training(program, theta)
        contestants[f"phase {phase.name}, {kernel}"] = (call, _timed(call), inner_steps)
    for name, devices in (("optax.adam", jax.devices()), ("optax.adam, jax.vmap alone", jax.devices()[:1])):
        adam = partial(_each, [_adam_loop(recipe, family, devices) for family in families])
        contestants[name] = (adam, _timed(adam), inner_steps)

    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, (call, _, _) in contestants.items():
            seconds[name].append(_timed(call))

    table = Table(
        *("what", "inner steps/s", "(min … max)", "of Adam's", "of Adam's, vmap alone", "first call"),
        title=f"recipe {options.recipe}: {2 * particles:,} particles, {recipe.truncation_length} steps",
    )
    for name, (_, first, steps) in contestants.items():
        speed = sorted(steps / s for s in seconds[name])
        ratios = [  # all take the same number of inner steps
            f"{statistics.median(a / s for s, a in zip(seconds[name], seconds[loop], strict=True)):.2f}"
            for loop in ("optax.adam", "optax.adam, jax.vmap alone")
        ]
        spread = f"({speed[0]:,.0f} … {speed[-1]:,.0f})"
        middle = f"{statistics.median(speed):,.0f}"
        table.add_row(name, middle, spread, *ratios, f"{first:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.caption = f"median of {options.repeats}; {jax.device_count()} devices; peak memory {peak:.2f} GiB"
    Console().print(table)


def _timed(call: Callable[[], None]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def _meta_training(program: PhaseProgram, theta) -> Callable[[], None]:
    state, frozen = program.init(theta, jax.random.key(1))
    box = [state]

    def call() -> None:
        box[0], progress = program.advance(box[0], frozen, OUTER_STEPS)
        jax.block_until_ready((box[0], progress))

    return call


def _each(calls: list[Callable[[], None]]) -> None:
    for call in calls:
        call()


def _adam_loop(recipe: Recipe, family: TaskFamily, devices: Sequence[Any]) -> Callable[[], None]:
    """As many tasks as meta-training has sides of particles, trained by Adam on these devices."""
    num = 2 * recipe.pairs_per_task * len(family.members)
    adam = optax.adam(1e-3)

    def start(index: Array):
        key_task, key_params = jax.random.split(jax.random.fold_in(jax.random.key(0), index))
        task = family.sample(key_task, index % len(family.members))
        params, model_state = task.init(key_params)
        return task, params, model_state, adam.init(params)

    def train(task, params, model_state, opt_state, key):
        def truncation(carry, key):
            return jax.lax.scan(step, carry, family.draw(key, recipe.truncation_length))

        def step(carry, draw):
            params, model_state, opt_state = carry
            batch = family.batch(task, "train", draw)
            loss, grads, model_state = value_and_grad(task, params, model_state, jax.random.key(0), batch)
            updates, opt_state = adam.update(grads, opt_state, params)
            return (optax.apply_updates(params, updates), model_state, opt_state), loss

        return jax.lax.scan(truncation, (params, model_state, opt_state), jax.random.split(key, OUTER_STEPS))[
            1
        ]

    mesh, split = Mesh(devices, (PARTICLES,)), PartitionSpec(PARTICLES)
    run = jax.jit(jax.shard_map(jax.vmap(train), mesh=mesh, in_specs=split, out_specs=split, check_vma=False))
    arguments = (*jax.vmap(start)(jnp.arange(num)), jax.random.split(jax.random.key(1), num))
    arguments = jax.device_put(arguments, NamedSharding(mesh, split))

    def call() -> None:
        jax.block_until_ready(run(*arguments))

    return call


if __name__ == "__main__":
    main()
