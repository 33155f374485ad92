"""Inner steps a second of meta-training, beside the same inner loop under optax.adam, in one run.

    python -m benchmarks.meta_train
    python -m benchmarks.meta_train --kernels native --pairs 32   # cost as particles grow
    python -m benchmarks.meta_train --kernels native --cpu --recipes celo celo2 velo-s   # beside Celo's

An inner step is one update of one particle. Meta-training is timed end to end: data, resets,
perturbations, the outer step. The yardstick trains the same tasks (same number, same batches, same
devices) with Adam, without perturbations, losses or meta-gradients: once split over the devices as
meta-training is, and once as plain `jax.vmap` gives it, on one device that has all threads. All take turns,
so that ratios hold when the machine's speed drifts. On a machine that others use, too, `--cpu` counts the
processor's seconds, of all cores, instead of the clock's.
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

OUTER_STEPS = 10  # of Adam's loop, and of each timed call unless told otherwise
YARDSTICKS = ("optax.adam", "optax.adam, jax.vmap alone")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        *("--recipes", "--recipe"), nargs="+", default=["celo"], choices=RECIPES, metavar="RECIPE"
    )
    parser.add_argument("--optimizer", default=None, help="default: as the recipe")
    parser.add_argument("--cpu", action="store_true", help="count CPU seconds, of all cores")
    parser.add_argument("--outer-steps", type=int, default=OUTER_STEPS, help="in one timed call")
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
    clock = time.process_time if options.cpu else time.perf_counter
    given = {
        "optimizer": options.optimizer,
        "pairs_per_task": options.pairs,
        "truncation_length": options.truncation,
        "orthogonalize": options.orthogonalize,
    }
    contestants: dict[str, tuple[Callable[[], None], float, int]] = {}

    def enter(name: str, call: Callable[[], None], recipe: Recipe, outer_steps: int) -> None:
        particles = 2 * recipe.pairs_per_task * len(kinds_of(families))
        steps = particles * recipe.truncation_length * outer_steps
        contestants[name] = (call, _timed(call, clock), steps)

    recipes = [
        make_recipe(name, **{k: v for k, v in given.items() if v is not None}) for name in options.recipes
    ]
    families = task_families(recipes[0], phases(recipes[0])[0])
    for name, recipe in zip(options.recipes, recipes, strict=True):
        if recipe.tasks != recipes[0].tasks:
            parser.error(f"recipes {options.recipes[0]} and {name} have other tasks: give one at a time")
        theta = first_theta(recipe, jax.random.key(0))
        for kernel, phase in itertools.product(options.kernels, phases(recipe)):
            program = PhaseProgram(recipe, phase, families, kernel)
            call = _meta_training(program, theta, options.outer_steps)
            enter(f"{name}, phase {phase.name}, {kernel}", call, recipe, options.outer_steps)
    for name, devices in zip(YARDSTICKS, (jax.devices(), jax.devices()[:1]), strict=True):
        adam = partial(_each, [_adam_loop(recipes[0], family, devices) for family in families])
        enter(name, adam, recipes[0], OUTER_STEPS)

    speeds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(options.repeats):
        for name, (call, _, steps) in contestants.items():
            speeds[name].append(steps / _timed(call, clock))

    first_phase = next(iter(contestants))
    unit = "CPU second" if options.cpu else "s"
    table = Table(
        *("what", f"inner steps/{unit}", "(min … max)", "of Adam's", "of Adam's, vmap alone"),
        *(f"of the first's, {first_phase.split(',')[0]}", "first call"),
    )
    for name, (_, first, _) in contestants.items():
        speed = sorted(speeds[name])
        ratios = [
            f"{statistics.median(s / a for s, a in zip(speeds[name], speeds[other], strict=True)):.2f}"
            for other in (*YARDSTICKS, first_phase)
        ]
        spread = f"({speed[0]:,.0f} … {speed[-1]:,.0f})"
        middle = f"{statistics.median(speed):,.0f}"
        table.add_row(name, middle, spread, *ratios, f"{first:.1f} s")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    table.caption = f"median of {options.repeats}; {jax.device_count()} devices; peak memory {peak:.2f} GiB"
    Console(width=140).print(table)


def _timed(call: Callable[[], None], clock: Callable[[], float]) -> float:
    began = clock()
    call()
    return clock() - began


def _meta_training(program: PhaseProgram, theta, outer_steps: int) -> Callable[[], None]:
    state, frozen = program.init(theta, jax.random.key(1))
    box = [state]

    def call() -> None:
        box[0], progress = program.advance(box[0], frozen, outer_steps)
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
