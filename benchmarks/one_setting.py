"""One learning rate for all tasks: of every hand-made optimizer the one that is best over suite `probe`.

    python -m benchmarks.one_setting --out evaluation/one_setting

Every rate of the grid runs to the end on every task of `probe`, with three seeds. A rate is worth the
interquartile mean over the tasks of its loss ratio, the metric of the leaderboard: the final smoothed loss of
Adam at the best rate of the same grid for that task, divided by this one's. The suites that contestants are
compared on have no part in it. The last line is what to give to `celo evaluate`. Finished runs are kept and
not run again.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from celo._errors import CeloError
from celo.cli._console import plain_console, progress_bars
from celo.evaluate import Protocol, Record, aggregate, evaluate, load_records, metrics
from celo.evaluate._settings import ADAM, PAPER_RATES

NAMES = (
    *("nadamw_cosine", "adamw_cosine", "ademamix_cosine", "schedule_free_adamw", "muon_cosine"),
    *("muon_moonlight_cosine", "prodigy_cosine"),
)
RATES = tuple(rate for rate in PAPER_RATES if rate >= 1e-5)


def worth_of_rates(records: Sequence[Record], name: str) -> dict[float, float]:
    """Learning rate -> interquartile mean over tasks of the loss ratio; 0 on a task where it diverged.

    Args:
      records: of grids that ran to the end, Adam's and those of `name`, on the same tasks.
      name: whose rates.

    Raises:
      CeloError: it has no record on one of Adam's tasks.
    """
    adams = {one.task: float(one.rung_losses[-1].min()) for one in records if one.contestant == ADAM}
    mine = {one.task: one for one in records if one.contestant == name}
    if lacking := set(adams) - set(mine):
        raise CeloError(f"{name} has no record on {', '.join(sorted(lacking))}: run the command again")
    ratios = [metrics.final_loss_ratio(mine[task].rung_losses[-1], best) for task, best in adams.items()]
    worth = [float(aggregate.iqm(row)) for row in np.transpose(ratios)]
    rates = next(iter(mine.values())).rates.tolist()
    return dict(zip(rates, worth, strict=True))


def show(worth: dict[str, dict[float, float]], console: Console) -> None:
    """A table, whose best rates are marked, and the contestants that come of it."""
    rates = sorted({rate for row in worth.values() for rate in row})
    best = {name: max(row, key=row.__getitem__) for name, row in worth.items()}
    table = Table("optimizer", *(f"{rate:g}" for rate in rates))
    for name, row in worth.items():
        cells = (f"{row[rate]:.3f}{'*' if rate == best[name] else ''}" for rate in rates)
        table.add_row(name, *cells)
    console.print(table)
    for name, rate in best.items():
        if rate in (rates[0], rates[-1]):
            console.print(f"{name} is best at {rate:g}, an end of the grid: widen it with --rates")
    console.print(" ".join(f"{name}@{rate:g}" for name, rate in best.items()), soft_wrap=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="archive of the runs")
    parser.add_argument("--contestants", nargs="+", default=NAMES)
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--tasks", nargs="+", default=[], help="only these tasks of the probe")
    parser.add_argument("--steps", type=int, default=None)
    parser.add_argument("--workers", type=int, default=None)
    options = parser.parse_args()
    console = plain_console()
    with progress_bars(console) as progress:
        failures = evaluate(
            [ADAM, *options.contestants],
            out=options.out,
            suite="probe",
            tasks=options.tasks,
            num_steps=options.steps,
            protocol=Protocol(
                tuple(sorted(options.rates)), first_share=1.0, tuning_seeds=(1000, 1001, 1002), seeds=(0,)
            ),
            resume=True,
            equal_time=False,
            workers=options.workers,
            progress=progress,
        )
    if failures:
        raise CeloError("; ".join(failures))
    records = load_records(options.out)
    show({name: worth_of_rates(records, name) for name in options.contestants}, console)


if __name__ == "__main__":
    main()
