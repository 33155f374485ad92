"""Runs of one task side by side in one vmapped program, and one after another: which is faster?

    taskset -c 0 python -m benchmarks.side_by_side          # one core, as a worker of `celo evaluate` has

Adam at the 15 rates of the paper, 100 steps of tasks of suite `laptop`, evaluations included.
"""

import argparse
import time

import optax
from rich.console import Console
from rich.table import Table

from celo.evaluate import SUITES
from celo.evaluate._run.training import CurveProgram
from celo.evaluate._settings import PAPER_RATES
from celo.tasks import make_task


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--task", nargs="+", default=[task.name for task in SUITES["laptop"]])
    parser.add_argument("--steps", type=int, default=100)
    options = parser.parse_args()
    table = Table(
        *("task", "side by side, s", "first call", "one after another, s", "first call", "ratio"),
        title=f"{len(PAPER_RATES)} rates, {options.steps} steps",
    )
    for name in options.task:
        family = make_task(name)
        found = []
        for side_by_side in (True, False):
            program = CurveProgram(
                family, 0, optax.adam, num_steps=options.steps, eval_every=20, side_by_side=side_by_side
            )
            found.append([_seconds(program) for _ in range(3)])
        (first_a, *again_a), (first_b, *again_b) = found
        a, b = min(again_a), min(again_b)
        table.add_row(name, f"{a:.2f}", f"{first_a:.1f}", f"{b:.2f}", f"{first_b:.1f}", f"{a / b:.2f}")
    Console().print(table)


def _seconds(program: CurveProgram) -> float:
    begin = time.perf_counter()
    program.curves(PAPER_RATES, (1000,))
    return time.perf_counter() - begin


if __name__ == "__main__":
    main()
