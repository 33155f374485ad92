"""celo train."""

import argparse
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from celo._errors import CeloError, unknown_name
from celo.cli._settings import INTERRUPTED, add_fields, fastest_kernel, given, one_device_per_core


def add_train(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo train` to the commands."""
    from celo.meta._recipes import RECIPES, Recipe

    parser = commands.add_parser("train", help="meta-train θ: all phases of a recipe", allow_abbrev=False)
    parser.add_argument("--recipe", default=None, help=f"one of {', '.join(RECIPES)} (default: quick)")
    parser.add_argument("--out", type=Path, default=None, help="new folder of the run (default: runs/RECIPE)")
    parser.add_argument(
        "--resume", type=Path, default=None, metavar="RUN", help="go on with the run in this folder"
    )
    parser.add_argument("--checkpoint-seconds", type=float, default=120.0, help="time between checkpoints")
    parser.add_argument(
        "--kernel",
        default=None,
        help="of the update rule: xla, or native, C++ for CPUs (default: native where it can be had)",
    )
    several = parser.add_argument_group("several processes (docs/scaling.md)")
    several.add_argument("--distributed", action="store_true", help="join those of this cluster job")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 listens for the others")
    several.add_argument("--num-processes", type=int, metavar="N", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which this one is, from 0")
    add_fields(parser.add_argument_group("recipe fields"), Recipe)
    parser.set_defaults(run=_train)
    return parser


def _train(options: argparse.Namespace) -> int:
    from celo._kernels.native import KERNELS
    from celo.meta._recipes import Recipe, make_recipe

    overrides = given(options, Recipe)
    if options.kernel not in (None, *KERNELS):
        raise unknown_name("kernel", options.kernel, KERNELS)
    if not options.checkpoint_seconds > 0:
        raise CeloError(f"--checkpoint-seconds must be positive, got {options.checkpoint_seconds}")
    if options.resume is not None and (overrides or options.recipe or options.out or options.kernel):
        raise CeloError("--resume goes on with the run's own recipe and folder; leave the other options away")
    name = options.recipe or "quick"
    run: Path = options.resume or options.out or Path("runs") / name
    recipe = make_recipe(name, **overrides) if options.resume is None else None

    from celo.meta import _checkpoint as checkpoint
    from celo.meta import _hosts as hosts
    from celo.meta import _run as train
    from celo.meta import _summary as report

    address = (options.coordinator, options.num_processes, options.process_id)
    if options.distributed or address != (None, None, None):
        hosts.join(*address)
    elif recipe is None:
        checkpoint.read_header(run / train.CHECKPOINT)  # a mistake is told before JAX starts
    one_device_per_core()

    console = Console(quiet=not hosts.is_first())
    try:
        if recipe is None:
            theta = train.resume(run, console=console, checkpoint_seconds=options.checkpoint_seconds)
        else:
            kernel = options.kernel or fastest_kernel(console)
            theta = train.start(
                run, recipe, console=console, checkpoint_seconds=options.checkpoint_seconds, kernel=kernel
            )
    except train.Stopped as stopped:
        if hosts.is_first():
            print(f"celo: {stopped}; go on with `celo train --resume {run}`", file=sys.stderr)
        return INTERRUPTED
    if hosts.is_first():
        report.show(run, theta, console)
    return 0
