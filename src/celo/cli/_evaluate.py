"""celo race, celo evaluate and celo report."""

import argparse
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from celo._errors import CeloError
from celo.cli._console import plain_console, progress_bars
from celo.cli._settings import add_import, import_own
from celo.evaluate._settings import RACE_NUM_EVALUATIONS, RACE_NUM_STEPS, RACE_TASK

_CONTESTANT = (
    "bundled weights, a .safetensors file, a baseline (`celo info`), 'baselines' for all of them, "
    "package.module:function of your own; a baseline or function with @RATE for one learning rate on all "
    "tasks; or NAME= one of these"
)
# What the library's errors call an argument, and what the commands call it.
_OPTIONS = {
    "num_steps": "--steps",
    "num_seeds": "--seeds",
    "resume=True": "--resume",
    "workers=": "--workers",
    "another out": "another --out",
    "out must be": "--out must be",
}


def add_race(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo race` to the commands."""
    parser = commands.add_parser(
        "race", help="Celo beside tuned optimizers on one task, in a minute", allow_abbrev=False
    )
    parser.add_argument(
        "contestants",
        nargs="*",
        metavar="CONTESTANT",
        help=f"{_CONTESTANT} (default: celo; adam always runs)",
    )
    parser.add_argument(
        "--tasks",
        "--task",
        default=RACE_TASK,
        metavar="TASK",
        help=f"task to train, or package.module:attribute of your own (default: {RACE_TASK})",
    )
    parser.add_argument(
        "--steps", type=int, default=RACE_NUM_STEPS, help=f"training steps (default: {RACE_NUM_STEPS})"
    )
    parser.add_argument(
        "--seeds",
        type=int,
        default=3,
        help="number of seeds to report; rates are tuned on as many others (default: 3)",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("race"), help="folder of the report and its records (default: race)"
    )
    _add_running(parser)
    parser.set_defaults(run=_race)
    return parser


def _race(options: argparse.Namespace) -> int:
    from celo.evaluate._records import load_records
    from celo.evaluate._report.figures import require_altair
    from celo.evaluate._report.write import write_report
    from celo.evaluate._run.contestants import resolve_contestants
    from celo.evaluate._run.evaluation import evaluate
    from celo.evaluate._score.leaderboard import REFERENCE
    from celo.evaluate._settings import race_protocol

    require_altair()  # before anything is run
    import_own(options.imports)
    console = plain_console()
    who = resolve_contestants([*(options.contestants or ["celo"]), REFERENCE])
    archive: Path = options.out / "records"
    with _speaking_of_options(), progress_bars(console) as progress:
        failures = evaluate(
            who,
            out=archive,
            tasks=[options.tasks],
            num_steps=options.steps,
            num_evaluations=RACE_NUM_EVALUATIONS,
            protocol=race_protocol(options.seeds),
            resume=True,
            imports=options.imports,
            workers=options.workers,
            kernel=options.kernel,
            progress=progress,
        )
    _show_failures(failures)
    records = load_records(archive)
    found = {record.contestant for record in records if record.task == options.tasks}
    shown = [one.name for one in who if one.name in found]
    if REFERENCE not in found or (failures and shown == [REFERENCE]):
        return 1
    with _kept(archive):
        board = write_report(
            records, options.out, contestants=shown, tasks=[options.tasks], made_from=f"`{_again(options)}`"
        )
    _show(board, console)
    console.print(f"report:  {options.out / 'report.html'}", highlight=False, soft_wrap=True)
    return 1 if failures else 0


def _again(options: argparse.Namespace) -> str:
    """The command that repeats a race."""
    words = ["celo", "race", *options.contestants]
    words += [word for module in options.imports for word in ("--import", module)]
    for name, default in (("tasks", RACE_TASK), ("steps", RACE_NUM_STEPS), ("seeds", 3), ("kernel", "auto")):
        if getattr(options, name) != default:
            words += [f"--{name}", str(getattr(options, name))]
    return shlex.join(words)


def add_evaluate(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo evaluate` to the commands."""
    parser = commands.add_parser("evaluate", help="optimizers over a suite of tasks", allow_abbrev=False)
    parser.add_argument("contestants", nargs="+", metavar="CONTESTANT", help=_CONTESTANT)
    parser.add_argument("--suite", default=None, help="tasks to evaluate on (default: laptop)")
    parser.add_argument(
        "--tasks",
        "--task",
        nargs="+",
        default=[],
        metavar="TASK",
        help="only these tasks: of the suite or, without --suite, any, or package.module:attribute",
    )
    parser.add_argument("--steps", type=int, default=None, help="training steps, if not the suite's")
    parser.add_argument("--seeds", type=int, default=3, help="number of seeds to report (default: 3)")
    parser.add_argument(
        "--out", type=Path, default=None, help="folder for the records (default: evaluation/SUITE)"
    )
    parser.add_argument("--resume", action="store_true", help="add to an archive that is there")
    parser.add_argument(
        "--equal-time",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="everyone runs once more, for the steps that fit into the time of Adam's (default: yes)",
    )
    parser.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask cluster, tcp://host:port")
    _add_running(parser)
    parser.set_defaults(run=_evaluate)
    return parser


def _add_running(parser: argparse.ArgumentParser) -> None:
    """The options that say how contestants are run, and not what is measured."""
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one a core)")
    parser.add_argument(
        "--kernel", default="auto", help="kernel for learned optimizers: auto, native or xla (default: auto)"
    )
    add_import(parser)


def _evaluate(options: argparse.Namespace) -> int:
    from celo.evaluate._records import bundled_archive, load_records, with_bundled
    from celo.evaluate._run.contestants import resolve_contestants
    from celo.evaluate._run.evaluation import evaluate
    from celo.evaluate._score.leaderboard import REFERENCE, leaderboard
    from celo.evaluate._settings import Protocol

    import_own(options.imports)
    console = plain_console()
    if options.seeds < 1:
        raise CeloError(f"--seeds must be at least 1, got {options.seeds}")
    out: Path = options.out or Path("evaluation") / (options.suite or ("own" if options.tasks else "laptop"))
    who = resolve_contestants(options.contestants)
    with _speaking_of_options(), progress_bars(console) as progress:
        failures = evaluate(
            who,
            out=out,
            suite=options.suite,
            tasks=options.tasks,
            num_steps=options.steps,
            protocol=Protocol(seeds=tuple(range(options.seeds))),
            resume=options.resume,
            equal_time=options.equal_time,
            imports=options.imports,
            scheduler=options.scheduler,
            workers=options.workers,
            kernel=options.kernel,
            progress=progress,
        )
    _show_failures(failures)
    suite = options.suite or "laptop"
    mine = load_records(out)
    every = with_bundled(mine, suite)
    found = {record.contestant for record in every}
    shown = [one.name for one in who if one.name in found]
    if REFERENCE in found and shown:
        with _kept(out):
            board = leaderboard(every, contestants=shown)
        _show(board, console)
    elif shown:
        console.print(
            f"no table: scores are relative to {REFERENCE}, which has no record with these tasks, steps and "
            f"seeds; add {REFERENCE} to the command, with --resume"
        )
    if mine:
        archives = f"{out} {bundled_archive(suite)}" if len(every) > len(mine) else str(out)
        console.print(
            f"records: {out}; to draw them: celo report {archives}", highlight=False, soft_wrap=True
        )
    return 1 if failures else 0


def add_report(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo report` to the commands."""
    parser = commands.add_parser("report", help="a leaderboard of what was evaluated", allow_abbrev=False)
    parser.add_argument(
        "archives",
        nargs="+",
        metavar="ARCHIVE",
        help="folders that `celo evaluate` wrote, or .zip files; if several have a record, the first counts",
    )
    parser.add_argument(
        "--out", type=Path, default=Path("report"), help="folder of the report (default: report)"
    )
    parser.add_argument(
        "--reference", default="adam", help="the contestant that scores are relative to (default: adam)"
    )
    parser.add_argument(
        "--contestants", nargs="+", default=[], metavar="NAME", help="which are shown (default: all)"
    )
    parser.add_argument(
        "--tasks", "--task", nargs="+", default=[], metavar="TASK", help="which tasks (default: all)"
    )
    parser.add_argument(
        "--all-tasks",
        action="store_true",
        help="aggregate over all tasks that each contestant has, not over the common ones",
    )
    parser.add_argument(
        "--smoothing", type=float, default=0.9, help="decay of the curves' moving average (default: 0.9)"
    )
    parser.add_argument(
        "--loss",
        default="train",
        help="what is compared, train or valid (default: train); rates are tuned on train",
    )
    parser.set_defaults(run=_report)
    return parser


def _report(options: argparse.Namespace) -> int:
    from celo.evaluate._records import load_records
    from celo.evaluate._report.write import write_report

    if not 0 <= options.smoothing < 1:
        raise CeloError(f"--smoothing must be at least 0 and below 1, got {options.smoothing}")
    records = load_records(*options.archives)
    if not records:
        raise CeloError(
            f"{', '.join(options.archives)}: no records; make some with `celo evaluate --out FOLDER`"
        )
    console = plain_console()
    board = write_report(
        records,
        options.out,
        reference=options.reference,
        contestants=options.contestants,
        tasks=options.tasks,
        common=not options.all_tasks,
        smoothing=options.smoothing,
        loss=options.loss,
        made_from=" and ".join(options.archives),
    )
    _show(board, console)
    console.print(f"report:  {options.out / 'report.html'}", highlight=False, soft_wrap=True)
    return 0


def _show_failures(lines: Sequence[str]) -> None:
    for line in lines:
        print(f"celo: failed: {line}", file=sys.stderr)


# What a narrow terminal goes without, in this order, after the intervals.
_SPARED = (
    "validation loss",
    "P(better)",
    "target score",
    "rank",
    "over tasks",
    "speedup in time",
    "early speedup",
    "P(ahead)",
    "equal-time ratio",
    "step cost",
)


def _show(board: Any, console: Console) -> None:
    """Prints a leaderboard; a narrow terminal gets no intervals, then fewer columns."""
    from celo.evaluate._report import tables

    header, rows = tables.cells(board)

    def width(kept: list[int]) -> int:
        return sum(2 + max(len(row[i]) for row in (header, *rows)) for i in kept)

    kept = list(range(len(header)))
    if width(kept) > console.width:
        rows = [[cell.partition(" [")[0] for cell in row] for row in rows]
    for name in _SPARED:
        if width(kept) > console.width and name in header:
            kept.remove(header.index(name))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    for i in kept:
        table.add_column(header[i], justify="left" if i == 1 else "right", no_wrap=True)
    for row, one in zip(rows, board.standings, strict=True):
        table.add_row(*(row[i] for i in kept), style="bold" if one.learned else None)
    headline = Text(f"\n{tables.headline(board)}", style="bold")
    console.print(headline, table, tables.caption(board), sep="\n", highlight=False)
    for line in tables.missing(board):
        console.print(line, highlight=False)


@contextmanager
def _kept(archive: Path) -> Iterator[None]:
    """Has an error of the block, which comes after all the work, say that the work is not lost."""
    try:
        yield
    except CeloError as error:
        raise CeloError(f"{error}; the records are kept in {archive}") from error


@contextmanager
def _speaking_of_options() -> Iterator[None]:
    """Has the library's errors, which speak of arguments, speak of options."""
    try:
        yield
    except CeloError as error:
        text = str(error)
        for argument, option in _OPTIONS.items():
            text = text.replace(argument, option)
        raise CeloError(text) from error
