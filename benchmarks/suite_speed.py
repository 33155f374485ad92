"""CPU seconds of one run of each task of a suite, trained by Adam on one core.

    python -m benchmarks.suite_speed [--suite laptop] [--tasks kjv_gru …] [--whole]

The process keeps to one core, and so does XLA. "training" is the least CPU time of several windows of 20
steps, times the steps of a run: other programs disturb it little. "whole run" is one real run, with its
evaluations and compilation, and the losses it ends at.
"""

import argparse
import os
import statistics
import time

import jax
import jax.numpy as jnp
import optax
from rich.console import Console

from celo.evaluate import SUITES, TaskSettings
from celo.evaluate._run.training import seconds_per_step, train_curve
from celo.tasks import make_task

ADAM = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", default="laptop", choices=SUITES)
    parser.add_argument("--tasks", nargs="+", default=None, help="some of the suite's (default: all)")
    parser.add_argument("--whole", action="store_true", help="also run each task once from end to end")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):  # XLA counts the cores when it is first used
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

    console = Console(highlight=False)
    seconds = []
    for task in SUITES[options.suite]:
        if options.tasks and task.name not in options.tasks:
            continue
        spent, line = _measure(task, options.whole)
        seconds.append(spent)
        console.print(line)
    console.print(
        f"median {statistics.median(seconds):.1f} s, slowest {max(seconds):.1f} s; Adam at {ADAM:g}"
    )


def _measure(task: TaskSettings, whole: bool) -> tuple[float, str]:
    """Seconds of training, and a line about the task."""
    family = make_task(task.name)
    sampled = family.sample(jax.random.key(0), jnp.zeros((), jnp.int32))
    params, _ = jax.eval_shape(sampled.init, jax.random.key(0))
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    tx = optax.adam(ADAM)
    step = seconds_per_step(family, 0, tx, num_steps=20, repeats=9, clock=time.process_time)
    line = f"{task.name:32}{size:>9,} parameters, training {step * task.num_steps:4.1f} s"
    if whole:
        begin = time.process_time()
        curve = train_curve(family, 0, tx, num_steps=task.num_steps, seeds=(0,), eval_every=task.eval_every)
        spent = time.process_time() - begin
        first, *_, last = curve.train_loss[0]
        line += f", whole run {spent:.1f} s, loss {first:.4g} to {last:.4g}"
        line += f", validation {curve.valid_loss[0, -1]:.4g}"
    return step * task.num_steps, line


if __name__ == "__main__":
    main()
