"""CPU seconds of one run of each task of a suite, trained by Adam on one core.

    python -m benchmarks.suite_speed [--suite laptop] [--tasks kjv_gru …] [--whole]

The process keeps to one core, and so does XLA. "training" is the least CPU time of several windows of 20
steps, times the steps of a run: other programs disturb it little. "whole run" is one real run, with its
evaluations and compilation, and the loss it ends at.
"""

import os

if hasattr(os, "sched_setaffinity"):  # before XLA counts the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import argparse
import statistics
import time

import jax
import optax
from rich.console import Console
from rich.table import Table

from celo.evaluate.curve import seconds_per_step, train_curve
from celo.evaluate.suite import SUITES, load_task

ADAM = 1e-3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--suite", default="laptop", choices=SUITES)
    parser.add_argument("--tasks", nargs="+", default=None, help="some of the suite's (default: all)")
    parser.add_argument("--whole", action="store_true", help="also run each task once from end to end")
    options = parser.parse_args()

    rows = {}
    console = Console()
    for task in SUITES[options.suite]:
        if options.tasks and task.name not in options.tasks:
            continue
        family = load_task(task.name)
        params, _ = jax.eval_shape(
            family.sample(jax.random.key(0), jax.numpy.int32(0)).init, jax.random.key(0)
        )
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        tx = optax.adam(ADAM)
        step = seconds_per_step(family, 0, tx, num_steps=20, repeats=9, clock=time.process_time)
        row = [step * task.num_steps, size, None, None]
        if options.whole:
            begin = time.process_time()
            curve = train_curve(
                family, 0, tx, num_steps=task.num_steps, seeds=(0,), eval_every=task.eval_every
            )
            row[2:] = [time.process_time() - begin, curve]
        rows[task.name] = row
        console.print(task.name, f"{row[0]:.1f} s", highlight=False)

    median = statistics.median(row[0] for row in rows.values())
    table = Table("task", "parameters", "training", "of the median", "whole run", "loss", "validation")
    for name, (seconds, size, whole, curve) in rows.items():
        ends = (
            [f"{whole:.1f} s", f"{curve.train_loss[0, -1]:.4g}", f"{curve.valid_loss[0, -1]:.4g}"]
            if whole
            else []
        )
        table.add_row(name, f"{size:,}", f"{seconds:.1f} s", f"{seconds / median:.2f}", *ends)
    slowest = max(row[0] for row in rows.values())
    table.caption = f"median {median:.1f} s, slowest {slowest:.1f} s; Adam at {ADAM:g}"
    console.print(table)


if __name__ == "__main__":
    main()
