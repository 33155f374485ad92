"""The command line: celo train | race | data | convert | info. Flags come from the settings' dataclasses."""

import argparse
import dataclasses
import json
import os
import sys
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from celo import __version__
from celo.errors import CeloError, unknown_name

INTERRUPTED = 130  # the shell's exit status for a command ended by SIGINT


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status. A user's mistake is one line on stderr and status 2."""
    try:
        options = _parse(sys.argv[1:] if arguments is None else list(arguments))
        return options.run(options)
    except CeloError as error:
        print(f"celo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("celo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CeloError(f"{message}; see `{self.prog} --help`")


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = _Parser(prog="celo", description="Learned optimizers: meta-train them, race them, use them.")
    parser.add_argument("--version", action="version", version=f"celo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    makers = {
        "train": _add_train,
        "race": _add_race,
        "evaluate": _add_evaluate,
        "data": _add_data,
        "convert": _add_convert,
        "info": _add_info,
    }
    parsers = {name: add(commands) for name, add in makers.items()}
    if not arguments or arguments[0] not in ("-h", "--help", "--version", *makers):
        if not arguments:
            parser.print_help()
            raise SystemExit(2)
        raise unknown_name("command", arguments[0], makers)
    options, extra = parser.parse_known_args(arguments)
    if extra:
        known = parsers[arguments[0]]._option_string_actions
        raise unknown_name(
            f"option of `celo {arguments[0]}`", extra[0], [o for o in known if o.startswith("--")]
        )
    return options


def _add_train(commands: Any) -> argparse.ArgumentParser:
    from celo.meta.recipes import RECIPES, Recipe

    parser = commands.add_parser("train", help="meta-train θ: both phases of a recipe", allow_abbrev=False)
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
    _add_fields(parser.add_argument_group("recipe fields"), Recipe)
    parser.set_defaults(run=_train)
    return parser


def _train(options: argparse.Namespace) -> int:
    from celo.meta.recipes import Recipe, make_recipe
    from celo.native import KERNELS

    overrides = _given(options, Recipe)
    if options.kernel not in (None, *KERNELS):
        raise unknown_name("kernel", options.kernel, KERNELS)
    if not options.checkpoint_seconds > 0:
        raise CeloError(f"--checkpoint-seconds must be positive, got {options.checkpoint_seconds}")
    if options.resume is not None and (overrides or options.recipe or options.out or options.kernel):
        raise CeloError("--resume goes on with the run's own recipe and folder; leave the other options away")
    name = options.recipe or "quick"
    run: Path = options.resume or options.out or Path("runs") / name
    recipe = make_recipe(name, **overrides) if options.resume is None else None

    from celo.meta import checkpoint, hosts, report, train

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
            kernel = options.kernel or _fastest_kernel(console)
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


def _fastest_kernel(console: Console) -> str:
    """The native kernel on a CPU with a compiler, else XLA's; says which and why."""
    import jax

    from celo import native

    if jax.default_backend() != "cpu":
        return "xla"
    try:
        native.load()
    except CeloError as error:
        console.print(f"kernel:  xla ({error})", markup=False)
        return "xla"
    console.print("kernel:  native")
    return "native"


def one_device_per_core() -> None:
    """Makes JAX see one CPU device a core, unless JAX_NUM_CPU_DEVICES says otherwise.

    Particles on devices of their own run twice as fast as particles sharing one device's threads. It must
    be called before JAX computes anything.
    """
    import jax

    if "JAX_NUM_CPU_DEVICES" not in os.environ:
        jax.config.update("jax_num_cpu_devices", len(os.sched_getaffinity(0)))


def _add_race(commands: Any) -> argparse.ArgumentParser:
    from celo.evaluate.race import RaceConfig

    parser = commands.add_parser("race", help="Celo beside tuned optimizers on one task", allow_abbrev=False)
    _add_fields(parser, RaceConfig)
    parser.set_defaults(run=_race)
    return parser


def _race(options: argparse.Namespace) -> int:
    from celo.evaluate.race import RaceConfig, run_race

    run_race(RaceConfig(**_given(options, RaceConfig)), console=Console())
    return 0


def _add_evaluate(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("evaluate", help="optimizers over a suite of tasks", allow_abbrev=False)
    parser.add_argument(
        "contestants",
        nargs="+",
        metavar="CONTESTANT",
        help="bundled weights, a .safetensors file, NAME=file, a baseline (`celo info`) or baselines: all",
    )
    parser.add_argument("--suite", default=None, help="tasks to evaluate on (default: laptop)")
    parser.add_argument("--task", nargs="+", default=[], metavar="TASK", help="single tasks instead")
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
    from celo.evaluate import pools, runner
    from celo.evaluate.contestants import contestants
    from celo.evaluate.suite import suite_tasks
    from celo.evaluate.trials import Job, Protocol
    from celo.native import KERNELS

    sys.path.insert(0, os.getcwd())  # where a task of one's own may be
    console, kernel = Console(), options.kernel
    if kernel not in (None, *KERNELS):
        raise unknown_name("kernel", kernel, KERNELS)
    if options.seeds < 1:
        raise CeloError(f"--seeds must be at least 1, got {options.seeds}")
    tasks = suite_tasks(options.suite, options.task, options.steps)
    named, protocol = contestants(options.contestants), Protocol(seeds=tuple(range(options.seeds)))
    out: Path = options.out or Path("evaluation") / (options.suite or ("own" if options.task else "laptop"))
    if out.exists() and any(out.iterdir()) and not options.resume:
        raise CeloError(f"{out} already holds results; add to them with --resume or choose another --out")
    kernel = kernel or _fastest_kernel(console)
    jobs = [Job(task, one, protocol, kernel) for task in tasks for one in named]
    if options.scheduler is not None:
        with pools.dask(options.scheduler) as (pool, workers):
            failures = runner.run_jobs(jobs, out, pool, width=2 * workers, console=console)
    else:
        workers = options.workers or len(os.sched_getaffinity(0))
        with pools.local(workers) as pool:
            failures = runner.run_jobs(jobs, out, pool, width=workers, console=console)
    for line in failures:
        print(f"celo: failed: {line}", file=sys.stderr)
    return 1 if failures else 0


def _add_data(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("data", help="real data sets: list them, fetch them into the cache")
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="what to fetch (default: all that can be had)"
    )
    parser.set_defaults(run=_data)
    return parser


def _data(options: argparse.Namespace) -> int:
    from celo import data

    if options.action == "fetch":
        for name in options.names:
            if name not in data.DATASETS:
                raise unknown_name("data set", name, data.DATASETS)
        asked_for = ("svhn", "cifar100")  # no package has them
        for name in options.names or [name for name in data.DATASETS if name not in asked_for]:
            print(f"{name}: {data.fetch(name)}")
        return 0
    table = Table(
        "name", "what", "examples", "classes", "licence", "cached", title=f"cache: {data.data_dir()}"
    )
    for name, info in data.DATASETS.items():
        classes = str(info.num_classes or "")
        cached = "yes" if data.is_cached(name) else "no"
        table.add_row(name, info.title, f"{info.examples:,}", classes, info.licence, cached)
    Console().print(table)
    return 0


def _add_convert(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser("convert", help="published theta.state <-> our .safetensors")
    parser.add_argument("source", help="a theta.state or .safetensors file, or the name of bundled weights")
    parser.add_argument("destination", type=Path, help="ending in .safetensors or .state")
    parser.set_defaults(run=_convert)
    return parser


def _convert(options: argparse.Namespace) -> int:
    from celo.convert import convert

    print(convert(options.source, options.destination))
    return 0


def _add_info(commands: Any) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        "info", help="weights and their model card; what tasks and recipes there are"
    )
    parser.add_argument("weights", nargs="?", default=None, help="a bundled name or a .safetensors file")
    parser.add_argument(
        "--measure", action="store_true", help="run the recipe's tasks under the weights: their meta-loss"
    )
    parser.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    from celo import weights

    if options.weights is not None:
        found = weights.load(options.weights)
        print(f"{options.weights}: {found.metadata['architecture']}, sha256 {found.sha256}")
        for name, array in weights.flatten(found.theta).items():
            print(f"  {name:24s} {array.dtype}{list(array.shape)}")
        facts = weights.card(options.weights) if options.weights in weights.bundled() else found.metadata
        for key, value in facts.items():
            print(f"  {key}: {value}")
        if options.measure:
            _measure(found.theta, facts["recipe"])
        return 0
    if options.measure:
        raise CeloError("--measure needs weights to be measured: celo info celo --measure")

    from celo.evaluate.baselines import BASELINES
    from celo.evaluate.suite import SUITES
    from celo.meta import ESTIMATORS
    from celo.meta.recipes import RECIPES
    from celo.tasks import TASKS

    print(f"celo {__version__}")
    groups = {
        "weights": weights.bundled(),
        "tasks": TASKS,
        "recipes": RECIPES,
        "estimators": ESTIMATORS,
        "racers": ("celo", *BASELINES),
        "suites": SUITES,
    }
    for title, names in groups.items():
        print(f"{title}: {', '.join(names)}")
    return 0


def _measure(theta: Any, recipe: Any) -> None:
    from celo.meta.measure import measure
    from celo.meta.recipes import Recipe

    settings = Recipe(**(json.loads(recipe) if isinstance(recipe, str) else recipe))
    found = measure(theta, settings, kernel=_fastest_kernel(Console()))
    print(f"measured meta-loss: {found.meta_loss:.4f} ± {found.standard_error:.4f} (standard error)")
    for name, loss in found.task_losses.items():
        print(f"  {name:28s} mean training loss {loss:.4f}")


def _add_fields(parser: Any, config: type) -> None:
    """One option for each field of a dataclass; a tuple takes several values."""
    hints = typing.get_type_hints(config)
    for field in dataclasses.fields(config):
        hint, many = hints[field.name], typing.get_origin(hints[field.name]) is tuple
        parser.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=typing.get_args(hint)[0] if many else hint,
            nargs="+" if many else None,
            default=None,
            metavar=field.name.split("_")[-1].upper(),
            help=f"{field.metadata['help']} (default: {_text(field.default)})".replace("%", "%%"),
        )


def _given(options: argparse.Namespace, config: type) -> dict[str, Any]:
    """The fields that were given on the command line."""
    given = {field.name: getattr(options, field.name) for field in dataclasses.fields(config)}
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in given.items()
        if value is not None
    }


def _text(default: Any) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
