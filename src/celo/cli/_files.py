"""celo data, celo convert and celo info."""

import argparse
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from celo import __version__
from celo._errors import CeloError, unknown_name
from celo.cli._settings import fastest_kernel


def add_data(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo data` to the commands."""
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
            if name in data.CORPORA:
                data.load_tokens(name)  # says what is wanting: there is nowhere to fetch it from
            elif name not in data.DATASETS:
                raise unknown_name("data set", name, (*data.DATASETS, *data.CORPORA))
        asked_for = ("svhn", "cifar100")  # no package has them
        for name in options.names or [name for name in data.DATASETS if name not in asked_for]:
            print(f"{name}: {data.raw_dir(name) if name in data.CORPORA else data.fetch(name)}")
        return 0
    table = Table(
        "name", "what", "examples", "classes", "licence", "cached", title=f"cache: {data.data_dir()}"
    )
    for name, info in data.DATASETS.items():
        classes = str(info.num_classes or "")
        cached = "yes" if data.is_cached(name) else "no"
        table.add_row(name, info.title, f"{info.examples:,}", classes, info.licence, cached)
    for name, title in data.CORPORA.items():
        there = "yes" if data.raw_dir(name).is_dir() else "no"
        table.add_row(name, title, "your own", f"{data.PIECES:,}", "", there)
    Console().print(table)
    return 0


def add_convert(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo convert` to the commands."""
    parser = commands.add_parser("convert", help="published theta.state <-> our .safetensors")
    parser.add_argument("source", help="a theta.state or .safetensors file, or the name of bundled weights")
    parser.add_argument("destination", type=Path, help="ending in .safetensors or .state")
    parser.set_defaults(run=_convert)
    return parser


def _convert(options: argparse.Namespace) -> int:
    from celo.convert import convert

    print(convert(options.source, options.destination))
    return 0


def add_info(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo info` to the commands."""
    parser = commands.add_parser(
        "info", help="weights and their model card; what tasks and recipes there are"
    )
    parser.add_argument("weights", nargs="?", default=None, help="a bundled name or a .safetensors file")
    parser.add_argument(
        "--measure", action="store_true", help="run the recipe's tasks under the weights: their meta-loss"
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="train a small perceptron with the weights, and draw what they do",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for --explain (default: explain)")
    parser.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    from celo import weights

    if options.weights is not None:
        found = weights.load(options.weights)
        print(f"{options.weights}: {found.metadata['architecture']}, sha256 {found.sha256}")
        for name, array in weights.flatten(found.theta).items():
            print(f"  {name:24s} {array.dtype}{list(array.shape)}")
        facts = weights.facts(options.weights)
        for key, value in facts.items():
            print(f"  {key}: {value}")
        if options.measure:
            _measure(options.weights, found.theta, facts.get("recipe"))
        if options.explain:
            _explain(options.weights, options.out or Path("explain"))
        return 0
    for flag in ("measure", "explain"):
        if getattr(options, flag):
            raise CeloError(f"--{flag} needs weights: celo info celo --{flag}")

    from celo.evaluate._run.baselines import BASELINES
    from celo.evaluate._run.suites import SUITES
    from celo.meta import ESTIMATORS
    from celo.meta._recipes import RECIPES
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


def _explain(name: str, folder: Path) -> None:
    from celo._explain.explanation import explain
    from celo._explain.figure import draw_explanation
    from celo._plotting import require_matplotlib

    require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{folder}: cannot be made ({error.strerror}); choose another --out") from error
    print(f"wrote {draw_explanation(explain(weights=name), folder / 'explain.png')}")


def _measure(name: str, theta: Any, recipe: Any) -> None:
    from celo.meta._measure import measure
    from celo.meta._recipes import Recipe

    if not isinstance(recipe, dict):
        raise CeloError(f"{name} does not say by what recipe it was trained: --measure has no tasks to run")
    found = measure(theta, Recipe(**recipe), kernel=fastest_kernel(Console()))
    print(f"measured meta-loss: {found.meta_loss:.4f} ± {found.standard_error:.4f} (standard error)")
    for name, loss in found.task_losses.items():
        print(f"  {name:28s} mean training loss {loss:.4f}")
