"""celo race, celo evaluate and celo report."""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from celo._errors import CeloError
from celo.cli._settings import add_fields, fastest_kernel, given


def add_race(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo race` to the commands."""
    from celo.evaluate._race import RaceConfig

    parser = commands.add_parser("race", help="Celo beside tuned optimizers on one task", allow_abbrev=False)
    add_fields(parser, RaceConfig)
    parser.set_defaults(run=_race)
    return parser


def _race(options: argparse.Namespace) -> int:
    from celo.evaluate._race import RaceConfig, run_race

    run_race(RaceConfig(**given(options, RaceConfig)), console=Console())
    return 0


def add_evaluate(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo evaluate` to the commands."""
    parser = commands.add_parser("evaluate", help="optimizers over a suite of tasks", allow_abbrev=False)
    parser.add_argument(
        "contestants",
        nargs="+",
        metavar="CONTESTANT",
        help="bundled weights, a .safetensors file, a baseline (`celo info`), baselines: all of them, "
        "package.module:function of your own; or NAME= one of these",
    )
    parser.add_argument("--suite", default=None, help="tasks to evaluate on (default: laptop)")
    parser.add_argument(
        "--task", nargs="+", default=[], metavar="TASK", help="single tasks, of the suite or any"
    )
    parser.add_argument("--steps", type=int, default=None, help="training steps, if not the suite's")
    parser.add_argument("--seeds", type=int, default=3, help="how many are reported (default: 3)")
    parser.add_argument("--out", type=Path, default=None, help="the archive (default: evaluation/SUITE)")
    parser.add_argument("--resume", action="store_true", help="add to an archive that is there")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, tcp://host:port")
    parser.add_argument("--kernel", default=None, help="of learned update rules, as in `celo train`")
    parser.set_defaults(run=_evaluate)
    return parser


def _evaluate(options: argparse.Namespace) -> int:
    from celo.evaluate._run.contestants import contestants
    from celo.evaluate._run.evaluation import evaluate
    from celo.evaluate._run.tuning import Protocol

    sys.path.insert(0, os.getcwd())  # where a task or an optimizer of one's own may be
    console = Console()
    if options.seeds < 1:
        raise CeloError(f"--seeds must be at least 1, got {options.seeds}")
    out: Path = options.out or Path("evaluation") / (options.suite or ("own" if options.task else "laptop"))
    failures = evaluate(
        options.contestants,
        out=out,
        suite=options.suite,
        tasks=options.task,
        num_steps=options.steps,
        protocol=Protocol(seeds=tuple(range(options.seeds))),
        resume=options.resume,
        scheduler=options.scheduler,
        workers=options.workers,
        kernel=options.kernel or fastest_kernel(console),
        console=console,
    )
    for line in failures:
        print(f"celo: failed: {line}", file=sys.stderr)
    names = [one.name for one in contestants(options.contestants)]
    _show_standings(out, options.suite or "laptop", names, console)
    return 1 if failures else 0


def _show_standings(out: Path, suite: str, names: list[str], console: Console) -> None:
    """The table of those evaluated beside Adam, whose records may be the package's own."""
    from celo.evaluate import _records as archive
    from celo.evaluate._report.tables import show
    from celo.evaluate._score.leaderboard import REFERENCE, leaderboard

    mine = archive.read_all(out)
    have = {(record.task, record.contestant) for record in mine}
    run_as = {record.task: (record.config["task"], record.config["protocol"]) for record in mine}
    known = [
        record
        for record in archive.read_all(archive.bundled(suite))
        if (record.task, record.contestant) not in have
        and run_as.get(record.task) == (record.config["task"], record.config["protocol"])
    ]
    found = dict.fromkeys(record.contestant for record in mine + known)
    shown = [name for name in names if name in found]
    if REFERENCE in found and shown:
        show(leaderboard(mine + known, contestants=shown), console)
    elif shown:
        console.print(
            f"no table: scores stand beside {REFERENCE}, which has no record with these tasks, steps and "
            f"seeds; add {REFERENCE} to the command, with --resume"
        )
    folders = f"{out} {archive.bundled(suite)}" if known else str(out)
    console.print(f"records: {out}; to draw them: celo report {folders}", highlight=False, soft_wrap=True)


def add_report(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo report` to the commands."""
    parser = commands.add_parser("report", help="a leaderboard of what was evaluated", allow_abbrev=False)
    parser.add_argument(
        "archives",
        nargs="+",
        type=Path,
        metavar="FOLDER",
        help="what `celo evaluate` wrote; the first to have a record counts",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument("--reference", default="adam", help="whom all stand beside (default: adam)")
    parser.add_argument(
        "--contestants", nargs="+", default=[], metavar="NAME", help="who is shown (default: all)"
    )
    parser.add_argument("--task", nargs="+", default=[], metavar="TASK", help="which tasks (default: all)")
    parser.add_argument(
        "--all-tasks", action="store_true", help="aggregate over all tasks that each has, not the common ones"
    )
    parser.add_argument(
        "--smoothing", type=float, default=0.9, help="decay of the curves' moving average (default: 0.9)"
    )
    parser.add_argument(
        "--loss", default="train", help="what is compared, train or valid (default: train); tuned is on train"
    )
    parser.set_defaults(run=_report)
    return parser


def _report(options: argparse.Namespace) -> int:
    from celo.evaluate._report.tables import write_report

    if not 0 <= options.smoothing < 1:
        raise CeloError(f"--smoothing must be at least 0 and below 1, got {options.smoothing}")
    write_report(
        options.archives,
        options.out,
        console=Console(),
        reference=options.reference,
        contestants=options.contestants,
        tasks=options.task,
        common=not options.all_tasks,
        smoothing=options.smoothing,
        loss=options.loss,
    )
    return 0
