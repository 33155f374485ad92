"""celo train."""

import argparse
import contextlib
import dataclasses
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from celo._errors import CeloError, unknown_name
from celo.cli._console import plain_console, progress_bars, stop_requests
from celo.cli._settings import (
    INTERRUPTED,
    add_fields,
    add_import,
    as_options,
    given,
    import_own,
    one_device_per_core,
    speaking_of_options,
)
from celo.cli._tensorboard import LOGS, row_writer

LOST = 3  # the exit status of a process that cannot go on without another


def add_train(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo train` to the commands."""
    from celo.meta._recipes import RECIPES, Recipe

    parser = commands.add_parser("train", help="meta-train θ: all phases of a recipe", allow_abbrev=False)
    parser.add_argument("--recipe", default=None, help=f"one of {', '.join(RECIPES)} (default: quick)")
    parser.add_argument("--out", type=Path, default=None, help="new folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--resume", type=Path, default=None, metavar="RUN", help="continue the run in a folder"
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    parser.add_argument(
        "--kernel",
        default=None,
        help="kernel for the update rule: native, xla, or auto (default): native where it works",
    )
    parser.add_argument(
        "--log",
        metavar="LOG",
        help=f"curves beside the run's own log, for {' or '.join(LOGS)}, as it goes on",
    )
    add_import(parser)
    several = parser.add_argument_group("several processes (docs/scaling.md)")
    several.add_argument("--distributed", action="store_true", help="join the processes of this cluster job")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which one this is, from 0")
    add_fields(parser.add_argument_group("recipe fields"), Recipe, {"tasks": "--task"})
    parser.set_defaults(run=_train)
    return parser


def _train(options: argparse.Namespace) -> int:
    from celo._kernels.native import KERNELS
    from celo.meta import _checkpoint as checkpoint
    from celo.meta import _hosts as hosts
    from celo.meta import _run
    from celo.meta._recipes import Recipe, make_recipe

    if options.imports:
        one_device_per_core()  # such a module may compute with JAX while it is imported
    import_own(options.imports)
    overrides = given(options, Recipe)
    if options.kernel not in (None, *KERNELS):
        raise unknown_name("kernel", options.kernel, KERNELS)
    if not options.checkpoint_seconds > 0:
        raise CeloError(f"--checkpoint-seconds must be positive, got {options.checkpoint_seconds}")
    if options.resume is not None and (overrides or options.recipe or options.out or options.kernel):
        raise CeloError(
            "--resume continues with the run's own recipe and folder; leave out the other options"
        )
    name = options.recipe or "quick"
    run: Path = options.resume or options.out or Path("runs") / name
    recipe = None
    if options.resume is None:
        with speaking_of_options(*_fields()):
            recipe = make_recipe(name, **overrides)

    address = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed or address != (None, None, None):
        _join(*address)
    elif recipe is None:
        checkpoint.read_header(run / _run.CHECKPOINT)  # a mistake shows before JAX starts
    one_device_per_core()

    console = plain_console(quiet=not hosts.is_first())
    try:
        with (
            _ending_at_once_alone(),
            speaking_of_options(*_fields()),
            stop_requests() as should_stop,
            row_writer(options.log, run) as on_row,
            progress_bars(console) as progress,
        ):
            told: dict[str, Any] = {"progress": progress, "on_row": on_row, "should_stop": should_stop}
            told["checkpoint_seconds"] = options.checkpoint_seconds
            if recipe is None:
                theta = _run.resume(run, **told)
            else:
                kernel = _run.resolve_kernel(options.kernel or "auto")
                console.print(f"kernel:  {kernel}")
                theta = _run.start(run, recipe, kernel=kernel, imports=options.imports, **told)
    except _run.Stopped as stopped:
        if hosts.is_first():
            print(f"celo: {stopped}; go on with `celo train --resume {run}`", file=sys.stderr)
        return INTERRUPTED
    if hosts.is_first():
        _show(run, theta, console)
    return 0


def _fields() -> list[str]:
    """Names of recipe fields that cannot be taken for a word of a sentence."""
    from celo.meta._recipes import Recipe

    return [field.name for field in dataclasses.fields(Recipe) if "_" in field.name]


def _join(coordinator: str | None, num_processes: int | None, process_id: int | None) -> None:
    """Joins the other processes of the run. It says so beforehand: JAX may end this one without a word."""
    from celo.meta import _hosts as hosts

    address = (coordinator, num_processes, process_id)
    try:
        with speaking_of_options("coordinator", "num_processes", "process_id"):
            hosts.check_address(*address)
            print(
                f"celo: joining {coordinator or 'the cluster'}, for up to {hosts.JOIN_SECONDS} s; if a "
                f"process is lost later, all end within about {hosts.HEARTBEAT_SECONDS} s, and --resume "
                "continues from the last checkpoint",
                file=sys.stderr,
                flush=True,
            )
            hosts.join(*address)
    except CeloError as error:
        raise CeloError(str(error).replace("or none of them", "or --distributed alone")) from error


@contextlib.contextmanager
def _ending_at_once_alone() -> Iterator[None]:
    """Ends this process at once, with status `LOST`, if the block fails on it and not on the others.

    Leaving in the usual way it would wait for the others, and they for it. CeloError and Stopped are what all
    processes raise at the same place; they pass.
    """
    import jax

    from celo.meta import _hosts as hosts
    from celo.meta._run import Stopped

    try:
        yield
    except (CeloError, Stopped):
        raise
    except BaseException as error:
        if jax.process_count() == 1:
            raise
        reason = hosts.lost_process(error)
        if reason is None:
            traceback.print_exc()
        else:
            print(
                f"celo: process {jax.process_index()} has lost another process of the run ({reason}); start "
                "all of them again with --resume to continue from the last checkpoint",
                file=sys.stderr,
            )
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(LOST)


def _show(run: Path, theta: Path, console: Console) -> None:
    """Prints a table for each phase of a finished run; writes its card and, with matplotlib, its curves."""
    from celo import weights
    from celo.meta import _summary as summary

    rows = summary.read_metrics(run / summary.METRICS)
    for phase in summary.summarize(rows):
        console.print(_phase_table(phase))
    console.print(f"card:    {summary.write_card(run, theta)}")
    console.print(f"weights: {theta}  (sha256 {weights.load(theta).sha256[:16]}…)")
    try:
        console.print(f"curve:   {summary.draw_metrics(rows, run / summary.PLOT)}")
    except ImportError:
        console.print("curve:   not drawn; pip install 'celo[plots]'")


def _phase_table(phase: Any) -> Table:
    table = Table("training loss on", "first tenth", "last tenth", "change", title=f"phase {phase.name}")
    for name, (before, after) in phase.tasks.items():
        table.add_row(name, f"{before:.4f}", f"{after:.4f}", f"{after / before - 1:+.1%}")
    before, after = phase.meta_loss
    table.add_section()
    table.add_row("meta-loss, minimized", f"{before:.4f}", f"{after:.4f}", f"{after - before:+.4f}")
    advice = as_options(phase.advice, *_fields())
    table.caption = f"non-finite inner steps: {phase.nonfinite:.2%}\n{advice}"
    return table
