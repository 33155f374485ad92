"""celo convert and celo info: weights files, and every name that commands accept."""

import argparse
from pathlib import Path
from typing import Any

from celo import __version__
from celo._errors import CeloError
from celo._files import make_folder
from celo.cli._settings import add_import, import_own


def add_convert(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo convert` to the commands."""
    parser = commands.add_parser(
        "convert", help="convert published theta.state files to .safetensors and back"
    )
    parser.add_argument(
        "source",
        nargs="+",
        help="a theta.state or .safetensors file, or the name of bundled weights; of PyLO's VeLO both files",
    )
    parser.add_argument("destination", type=Path, help="ending in .safetensors or .state")
    parser.add_argument(
        "--architecture", default=None, help="that of published weights, where several look alike: velo"
    )
    add_import(parser)
    parser.set_defaults(run=_convert)
    return parser


def _convert(options: argparse.Namespace) -> int:
    from celo.convert import LAYOUTS, convert

    import_own(options.imports)
    if not options.imports:  # the published forms are known without JAX, which takes its time to load
        print(convert(options.source, options.destination, architecture=options.architecture))
        return 0
    from celo.optimizers._bind import expected_shapes
    from celo.optimizers._registry import OPTIMIZERS

    published = {layout.architecture for layout in LAYOUTS}
    own = {name: expected_shapes(e.optimizer()) for name, e in OPTIMIZERS.items() if name not in published}
    print(convert(options.source, options.destination, architecture=options.architecture, shapes=own))
    return 0


def add_info(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo info` to the commands."""
    parser = commands.add_parser(
        "info", help="show weights and their model card, or list all tasks, baselines and recipes"
    )
    parser.add_argument("weights", nargs="?", default=None, help="a bundled name or a .safetensors file")
    parser.add_argument(
        "--measure",
        action="store_true",
        help="train the recipe's tasks with the weights and print their meta-loss",
    )
    parser.add_argument(
        "--explain",
        action="store_true",
        help="train a small perceptron with the weights and draw what they do",
    )
    parser.add_argument("--out", type=Path, default=None, help="folder for --explain (default: explain)")
    add_import(parser)
    parser.set_defaults(run=_info)
    return parser


def _info(options: argparse.Namespace) -> int:
    from celo import weights

    import_own(options.imports)
    if options.weights is not None:
        found = weights.load(options.weights)
        print(f"{options.weights}: {found.metadata['architecture']}, sha256 {found.sha256}")
        for name, array in weights.flatten(found.theta).items():
            print(f"  {name:24s} {array.dtype}{list(array.shape)}")
        facts = found.facts
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

    from celo.evaluate import BASELINES, SUITES
    from celo.meta import ESTIMATORS, RECIPES
    from celo.optimizers import OPTIMIZERS
    from celo.tasks import TASKS

    print(f"celo {__version__}")
    groups = {
        "weights": weights.bundled(),
        "learned optimizers": OPTIMIZERS,
        "baselines": BASELINES,
        "tasks": TASKS,
        "recipes": RECIPES,
        "estimators": ESTIMATORS,
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
    make_folder(folder, "choose another --out")
    print(f"wrote {draw_explanation(explain(weights=name), folder / 'explain.png')}")


def _measure(name: str, theta: Any, recipe: Any) -> None:
    from celo.meta import Recipe, measure

    if not isinstance(recipe, dict):
        raise CeloError(f"{name} does not record its recipe, so --measure has no tasks to run")
    try:
        read = Recipe(**recipe)
    except TypeError as error:
        raise CeloError(
            f"{name} records a recipe that this version of celo does not read ({error}); measure it with the "
            "version that trained it"
        ) from error
    found = measure(theta, read, kernel="auto")
    print(f"measured meta-loss: {found.meta_loss:.4f} ± {found.standard_error:.4f} (standard error)")
    for name, loss in found.task_losses.items():
        print(f"  {name:28s} mean training loss {loss:.4f}")
