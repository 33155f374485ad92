"""celo convert and celo info: weights files; what other names stand for is in `_describe`."""

import argparse
import os
from pathlib import Path
from typing import Any

from celo import __version__
from celo._errors import CeloError
from celo._files import make_folder
from celo.cli._console import plain_console
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
        "info", help="say what a name stands for: weights, a task, a baseline, a recipe; or list all names"
    )
    parser.add_argument(
        "name",
        nargs="?",
        default=None,
        help="bundled weights, a .safetensors file, a task at package.module:attribute, or any name listed",
    )
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
    from celo.cli._describe import describe, table_of_names, unknown

    if options.out is not None and not options.explain:
        raise CeloError("--out is the folder for --explain; give both, or neither")
    import_own(options.imports)
    name: str | None = options.name
    is_file = name is not None and (name.endswith(weights.SUFFIX) or os.sep in name)
    if name is not None and (is_file or name in weights.bundled()):
        _show(name, options)
    elif options.measure or options.explain:
        flag = "--measure" if options.measure else "--explain"
        raise CeloError(f"{flag} needs weights: celo info celo {flag}")
    if name is None:
        print(f"celo {__version__}")
        plain_console().print(table_of_names())
        print("celo info NAME says more of one")
    elif not is_file:
        lines = describe(name)
        if not lines and name not in weights.bundled():
            raise unknown(name, weights.bundled())
        print("".join(f"{line}\n" for line in lines), end="")
    return 0


def _show(name: str, options: argparse.Namespace) -> None:
    """Weights: their arrays and all that is known of them."""
    from celo import weights

    found = weights.load(name)
    print(f"{name}: {found.metadata['architecture']}, sha256 {found.sha256}")
    for array_name, array in weights.flatten(found.theta).items():
        print(f"  {array_name:24s} {array.dtype}{list(array.shape)}")
    facts = found.facts
    for key, value in facts.items():
        print(f"  {key}: {value}")
    if options.measure:
        _measure(name, found.theta, facts.get("recipe"))
    if options.explain:
        _explain(name, options.out or Path("explain"))


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
