"""The picture of the design, kept true: who may import whom, and how large a file may be."""

import ast
import importlib.util
import sys
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "celo"
MAX_LINES = 300

# Modules below celo by layer; "x.*" is the whole package x. An import may stay in its layer or point down.
LAYERS = {
    0: [
        "types",
        "errors",
        "folders",
        "tree",
        "nn",
        "native",
        "places",
        "provenance",
        "weights",
        "convert",
        "data.*",
    ],
    1: ["features"],
    2: ["optimizers.*", "tasks.*"],
    3: [
        *("meta", "meta.hosts", "meta.estimator", "meta.unroll", "meta.objective"),
        *("meta.antithetic", "meta.pes", "meta.truncated_es", "meta.full_es", "meta.imitation"),
        *("evaluate", "evaluate.curve", "evaluate.baselines", "evaluate.look", "evaluate.archive"),
        *("evaluate.metrics", "evaluate.aggregate", "evaluate.targets"),
    ],
    4: [
        *(
            "meta.recipes",
            "meta.first_theta",
            "meta.outer",
            "meta.train",
            "meta.checkpoint",
            "meta.report",
            "meta.measure",
        ),
        *("evaluate.contestants", "evaluate.outcome", "evaluate.trials", "evaluate.runner", "evaluate.pools"),
        "evaluate.evaluation",
        "evaluate.inner_training",
        *("evaluate.race", "evaluate.suite", "evaluate.report", "evaluate.figure"),
        *("evaluate.explain", "evaluate.rule_map", "evaluate.explain_figure"),
        *("evaluate.entry", "evaluate.leaderboard", "evaluate.leaderboard_report"),
        *("evaluate.leaderboard_figures", "evaluate.leaderboard_page"),
    ],
    5: ["cli.*"],
}

# Besides: (importer, never imports), each with all that is below it.
NEVER = [
    ("optimizers", "tasks"),
    ("tasks", "optimizers"),
    ("meta", "evaluate"),
    ("evaluate", "meta"),
    # An estimator knows an unrolled problem, not what is unrolled.
    *(
        (estimator, kind)
        for estimator in (
            *("meta.estimator", "meta.antithetic", "meta.pes", "meta.truncated_es", "meta.full_es"),
        )
        for kind in ("optimizers", "tasks")
    ),
    # Weights are for every framework, and scores for every machine.
    *(("weights", module) for module in ("types", "tree", "nn", "features", "data", "convert")),
]

# All that these take from outside the standard library; frameworks cost seconds and gigabytes.
THIRD_PARTIES = {
    "errors": set(),
    "weights": {"numpy", "safetensors"},
    "convert": {"numpy", "msgpack"},
    "data": {"numpy", "sklearn", "scipy", "PIL", "datasets"},
    "evaluate.metrics": {"numpy"},
    "evaluate.aggregate": {"numpy"},
    "evaluate.targets": {"numpy"},
}

FILES = sorted(SRC.rglob("*.py"))


def name_of(path):
    """src/celo/meta/pes.py -> "meta.pes"; the package itself is ""."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in FILES}


def imports(source, module, is_package=False):
    """(modules below celo, names taken from celo itself, third parties), at any depth of the source."""
    inner, from_root, outer = set(), set(), set()
    tree = ast.parse(source)
    package = ["celo", *(module.split(".") if module else [])]
    package = package if is_package else package[:-1]
    root_names = set()  # what "celo" is called, where the whole package is imported
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, _, rest = alias.name.partition(".")
                if top != "celo":
                    outer.add(top)
                elif rest:
                    inner.add(rest)
                else:
                    root_names.add(alias.asname or top)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            full = ".".join([*base, *([node.module] if node.module else [])])
            top, _, rest = full.partition(".")
            if top != "celo":
                outer.add(top)
                continue
            for alias in node.names:
                target = f"{rest}.{alias.name}" if rest else alias.name
                if target in MODULES:
                    inner.add(target)
                elif rest:
                    inner.add(rest)
                else:
                    from_root.add(alias.name)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in root_names
        ):
            (inner if node.attr in MODULES else from_root).add(node.attr)
    return inner, from_root, outer - set(sys.stdlib_module_names)


def imports_of(module):
    path = MODULES[module]
    return imports(path.read_text(encoding="utf-8"), module, path.name == "__init__.py")


def layer_of(module):
    for layer, entries in LAYERS.items():
        for entry in entries:
            if module == entry or (is_below(module, entry.removesuffix(".*")) and entry.endswith(".*")):
                return layer
    pytest.fail(f"celo.{module} is in no layer: add it to LAYERS in {Path(__file__).name}")


def is_below(module, package):
    return module == package or module.startswith(f"{package}.")


INNER_MODULES = [module for module in MODULES if module]


def test_how_imports_are_read():
    source = """
import os, numpy.linalg
import celo
import celo.tasks._base as base
from celo import weights, __version__
from celo.optimizers import as_optax as bind
from . import unroll
from .estimator import Estimate
if TYPE_CHECKING:
    from celo.evaluate import _race as race
def f():
    import jax
    celo.celo(1)
    return celo._kernels.statistics
"""
    inner, from_root, outer = imports(source, "meta.pes")
    assert inner == {
        *("tasks.base", "weights", "optimizers", "meta.unroll", "meta.estimator", "evaluate.race", "features")
    }
    assert from_root == {"__version__", "celo"}
    assert outer == {"numpy", "jax"}
    assert imports("from . import pes\nfrom .pes import PES", "meta", is_package=True)[0] == {"meta.pes"}


@pytest.mark.parametrize("module", INNER_MODULES)
def test_imports_point_down(module):
    inner, from_root, _ = imports_of(module)
    own = layer_of(module)
    up = {target: layer_of(target) for target in inner if layer_of(target) > own}
    assert not up, f"celo.{module} (layer {own}) imports from above: {up}"
    # celo itself hands out names of any layer; the version alone is harmless.
    assert from_root <= {"__version__"}, f"celo.{module} takes {from_root} from celo: import their module"


@pytest.mark.parametrize(("importer", "other"), NEVER)
def test_strangers(importer, other):
    for module in INNER_MODULES:
        if is_below(module, importer):
            inner, _, _ = imports_of(module)
            assert not {target for target in inner if is_below(target, other)}, f"celo.{module}"


@pytest.mark.parametrize("package", THIRD_PARTIES)
def test_third_parties(package):
    mine = [module for module in INNER_MODULES if is_below(module, package)]
    assert mine, f"celo.{package} is gone: take it out of THIRD_PARTIES"
    for module in mine:
        _, _, outer = imports_of(module)
        assert outer <= THIRD_PARTIES[package], f"celo.{module}"


def test_the_package_imports_nothing_when_it_is_imported():
    """The names it hands out are imported when first used; the ones in its source are for type checkers."""
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in at_once if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_files(path):
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    assert lines <= MAX_LINES, f"{lines} lines, over {MAX_LINES}: split it along its parts"
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring, "a module says in its first line what it is for"
    assert path.stem not in ("util", "utils", "helpers", "common", "misc"), "name it after what is in it"


def test_layers_name_each_module_once():
    entries = [entry for layer in LAYERS.values() for entry in layer]
    assert len(set(entries)) == len(entries)
    assert importlib.util.find_spec("celo").origin == str(SRC / "__init__.py"), "another celo is being tested"
