"""The rooms of the library, kept true: who may import whom, what is public, and how large a file may be.

The same table stands in CONTRIBUTING.md; `test_contributing_shows_these_layers` compares them.
"""

import ast
import importlib
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SRC, TESTS = ROOT / "src" / "celo", ROOT / "tests"
MAX_LINES = 450

# Rooms by layer, lowest first. An import may point down, or stay in its room. A room is a module or a folder.
LAYERS = [
    [
        *("_definitions", "_errors", "_jaxlib", "_limits", "_types", "_tree", "_nn", "_files"),
        *("_import_path", "_layout", "_plotting", "_provenance", "_arguments", "_compile", "_published"),
        *("weights", "convert"),
        "data",
    ],
    ["_kernels"],
    ["transforms", "optimizers", "tasks", "torch"],
    ["meta", "evaluate", "_explain"],
    ["cli", "__main__"],
]
# Rooms of one layer do not import each other, but for these (importer, a room or one module; imported).
NEIGHBOURS = {
    ("optimizers", "transforms"),
    ("__main__", "cli"),
    # It translates their states, and imports them where it is called with one.
    *(
        (f"torch.{name}", room)
        for name in ("_jax_state", "_jax_places")
        for room in ("optimizers", "transforms")
    ),
}

# Inside a room: (these, never import those); a folder stands for all that is in it.
STRANGERS = [
    # An estimator knows an unrolled problem, not what is unrolled.
    ("meta._estimators", ("meta._unroll", "meta._run", "meta._outer_step", "optimizers", "tasks")),
    # Scores know records, not how they came to be; and what runs knows no scores' reports.
    ("evaluate._score", ("evaluate._run", "evaluate._report")),
    ("evaluate._run", ("evaluate._report",)),
    # PyTorch users have no JAX.
    ("torch", ("_kernels", "_arguments", "_tree", "_nn", "_types")),
    # Nothing of the library knows the command line or its printing.
    *((room, ("cli",)) for layer in LAYERS[:-1] for room in layer),
]

# All that these take from outside the standard library; frameworks cost seconds and gigabytes. Of two that
# name a module, the closer counts.
THIRD_PARTIES = {
    "_errors": set(),
    "_files": set(),
    "weights": {"numpy", "safetensors"},
    "convert": {"numpy"},
    "_published": {"numpy", "msgpack", "safetensors"},
    "torch": {"numpy", "torch", *("axolotl", "timm", "transformers")},  # the last ones where they are adapted
    "torch._triton": {"torch", "triton"},  # imported where it is used
    "torch._triton_passes": {"triton"},
    "torch._jax_layout": {"numpy", "jax"},  # where a state of JAX is at hand
    "torch._jax_places": {"torch", "jax", "optax"},
    "torch._jax_state": {"numpy", "torch", "jax"},
    "data": {"numpy", "sklearn", "scipy", "PIL", "datasets"},
    "evaluate._score.metrics": {"numpy"},
    "evaluate._score.aggregate": {"numpy"},
    "evaluate._score.time_to_target": {"numpy"},
}
# What users may import; everything else begins with an underscore.
PUBLIC = {
    "",
    "cli",
    "convert",
    "data",
    "evaluate",
    "meta",
    "optimizers",
    "tasks",
    "torch",
    "transforms",
    "weights",
}

# Modules without a test file of their own name, and why.
UNMIRRORED = {
    "_types": "type aliases alone; pyright checks them",
    "optimizers._rule_steps": "test_update_rule and test_celo2 take its steps",
    "torch._rule_steps": "test_celo, test_celo2 and test_velo take its steps",
    "torch._triton_passes": "test_triton calls them",
    "torch._jax_places": "test_jax_state carries states by them",
    "_kernels.rule_network": "test_update_rule holds it to its definition, test_native to the native form",
}
# Test files that mirror no module, and what they test together.
TOGETHER = {
    "test_architecture": "all modules",
    "test_benchmarks": "benchmarks whose result is a choice",
    "test_cli": "the command line, end to end",
    "test_docs": "the pages of docs, the README and all docstrings",
    "test_examples": "the scripts in examples",
    "test_site": "the site of the documentation and its notebooks",
    "test_package": "what importing celo costs and hands out",
    "contract/test_optax_contract": "all optimizers and transformations, by their registry",
    "contract/test_outside": "an optimizer and a task from outside, through every command",
    "contract/test_task_contract": "all tasks, by their registry",
    "evaluate/report/test_browser": "the whole page in a browser",
    "evaluate/test_public_face": "what celo.evaluate hands out",
    "evaluate/test_race": "a race from the command to the report",
    "golden/test_golden_celo2": "Celo2 against recordings of the published code, and a reading of it",
    "golden/test_golden_mlps": "AdaFac-MLP, RNN-MLP and NN-Adam against recordings and a reading",
    "golden/test_golden": "Celo against recordings of the published code",
    "golden/test_golden_velo": "VeLO against recordings of the published code, and its float64 reading",
    "kernels/test_sanitizers": "the C++, under sanitizers and with wrong buffers",
    "kernels/test_per_layer": "per_layer and min_rms in the rule, the kernels and the transformations",
    "meta/estimators/test_estimators": "all estimators, by their registry",
    "optimizers/test_properties": "optimizers under any parameters, gradients and losses",
    "torch/test_both_frameworks": "one training in JAX and in PyTorch",
    "torch/test_gpu": "all optimizers of celo.torch on a GPU",
    "tasks/test_suite_tasks": "the tasks of the laptop suite, trained",
}

FILES = sorted(SRC.rglob("*.py"))


def name_of(path):
    """src/celo/meta/_estimators/pes.py -> "meta._estimators.pes"; the package itself is ""."""
    return ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


MODULES = {name_of(path): path for path in FILES}
INNER_MODULES = [module for module in MODULES if module]


def mirror_of(path):
    """src/celo/meta/_estimators/pes.py -> "meta/estimators/test_pes", below tests."""
    *folders, stem = path.relative_to(SRC).with_suffix("").parts
    return "/".join([*(folder.lstrip("_") for folder in folders), f"test_{stem.strip('_')}"])


def imports(source, module, is_package=False):
    """(modules below celo, names taken from celo itself, third parties), at any depth of the source.

    A name imported from a package that is no module counts as the package.
    """
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


def is_below(module, package):
    return module == package or module.startswith(f"{package}.")


def room_of(module):
    return module.split(".")[0]


def layer_of(room):
    for number, layer in enumerate(LAYERS):
        if room in layer:
            return number
    pytest.fail(f"celo.{room} is in no layer: add it to LAYERS in {Path(__file__).name}")


def test_how_imports_are_read():
    source = """
import os, numpy.linalg
import celo
import celo.tasks._base as base
from celo import weights, __version__
from celo.optimizers import as_optax as bind
from . import pes
from .base import Estimate
if TYPE_CHECKING:
    from celo.evaluate._run import suites
def f():
    import jax
    celo.celo(1)
    return celo.convert
"""
    inner, from_root, outer = imports(source, "meta._estimators.full_es")
    assert inner == {
        *("tasks._base", "weights", "optimizers", "convert"),
        *("meta._estimators.pes", "meta._estimators.base", "evaluate._run.suites"),
    }
    assert from_root == {"__version__", "celo"}
    assert outer == {"numpy", "jax"}


@pytest.mark.parametrize("module", INNER_MODULES)
def test_imports_point_down(module):
    inner, from_root, _ = imports_of(module)
    mine = room_of(module)
    for target in inner:
        theirs = room_of(target)
        down = layer_of(theirs) < layer_of(mine)
        # Those of the lowest layer may use each other as long as there is no circle.
        beside = layer_of(mine) == layer_of(theirs) == 0 or {(mine, theirs), (module, theirs)} & NEIGHBOURS
        assert mine == theirs or down or beside, f"celo.{module} imports celo.{target}"
    # celo itself hands out names of any layer; the version alone is harmless.
    assert from_root <= {"__version__"}, f"celo.{module} takes {from_root} from celo: import their module"


@pytest.mark.parametrize(("room", "others"), STRANGERS)
def test_strangers(room, others):
    mine = [module for module in INNER_MODULES if is_below(module, room)]
    assert mine, f"celo.{room} is gone: take it out of STRANGERS"
    for module in mine:
        inner, _, _ = imports_of(module)
        assert not {t for t in inner for other in others if is_below(t, other)}, f"celo.{module}"


def circles(graph):
    """The strongly connected groups of more than one node, by Tarjan's algorithm."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in graph[node]:
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            group = set()
            while node not in group:
                group.add(stack.pop())
            if len(group) > 1:
                found.append(sorted(group))

    for node in graph:
        if node not in index:
            visit(node)
    return found


def test_there_are_no_circles():
    """Imports inside functions and for type checkers count, too: a circle that is hidden is one."""
    assert circles({"a": ["b"], "b": ["c"], "c": ["b"], "d": []}) == [["b", "c"]]
    graph = {m: [t for t in imports_of(m)[0] if t in MODULES and t != m] for m in INNER_MODULES}
    # A package's `__init__` gathers its modules; a module that imports its own package is a circle.
    assert circles(graph) == []


@pytest.mark.parametrize("package", THIRD_PARTIES)
def test_third_parties(package):
    mine = [module for module in INNER_MODULES if is_below(module, package)]
    assert mine, f"celo.{package} is gone: take it out of THIRD_PARTIES"
    for module in mine:
        if max((other for other in THIRD_PARTIES if is_below(module, other)), key=len) != package:
            continue
        _, _, outer = imports_of(module)
        assert outer <= THIRD_PARTIES[package], f"celo.{module}"


def test_only_the_command_line_prints():
    for module, path in MODULES.items():
        if is_below(module, "cli"):
            continue
        tree = ast.parse(path.read_text(encoding="utf-8"))
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        names = {call.id for call in calls if isinstance(call, ast.Name)}
        names |= {
            f"{call.value.id}.{call.attr}"
            for call in calls
            if isinstance(call, ast.Attribute) and isinstance(call.value, ast.Name)
        }
        assert not names & {"print", "signal.signal"}, f"celo.{module}"
        assert "rich" not in imports_of(module)[2], f"celo.{module}"


def test_the_package_imports_nothing_when_it_is_imported():
    """The names it hands out are imported when first used; the ones in its source are for type checkers."""
    tree = ast.parse(MODULES[""].read_text(encoding="utf-8"))
    at_once = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in at_once if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in at_once if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= set(sys.stdlib_module_names)


def test_what_is_public_is_what_we_say():
    visible = {m for m in MODULES if not any(part.startswith("_") for part in m.split("."))}
    assert visible == PUBLIC


@pytest.mark.parametrize("module", sorted(PUBLIC - {"cli"}))
def test_public_names_exist_and_no_function_shadows_its_module(module):
    face = importlib.import_module(f"celo.{module}" if module else "celo")
    for name in getattr(face, "__all__", []):
        assert getattr(face, name) is not None
        shadowed = f"{module}.{name}".removeprefix(".")
        assert shadowed not in MODULES or shadowed in PUBLIC, f"celo.{shadowed} is a module and a name"
    if MODULES[module].name == "__init__.py":
        assert face.__all__, "a face says what it shows"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SRC)))
def test_files(path):
    source = path.read_text(encoding="utf-8")
    lines = source.count("\n")
    assert lines <= MAX_LINES, f"{lines} lines, over {MAX_LINES}: is it one concept?"
    docstring = ast.get_docstring(ast.parse(source))
    assert docstring, "a module says in its first line what it is for"
    assert path.stem not in ("util", "utils", "helpers", "common", "misc"), "name it after what is in it"


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=name_of)
def test_each_folder_says_what_lives_there(path):
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert len(docstring.splitlines()) >= 3, "say what lives here, what elsewhere, what outsiders may import"


def test_where_the_test_of_a_module_is():
    assert mirror_of(SRC / "meta" / "_estimators" / "pes.py") == "meta/estimators/test_pes"
    assert mirror_of(SRC / "_kernels" / "native.py") == "kernels/test_native"
    assert mirror_of(SRC / "weights.py") == "test_weights"


@pytest.mark.parametrize("path", [p for p in FILES if p.name != "__init__.py"], ids=name_of)
def test_every_module_has_a_test_file_of_its_name(path):
    """In the folder of tests that mirrors its own; `UNMIRRORED` says which have none."""
    mirror = TESTS / f"{mirror_of(path)}.py"
    if name_of(path) in UNMIRRORED:
        assert not mirror.exists(), f"take celo.{name_of(path)} out of UNMIRRORED"
    else:
        assert mirror.is_file(), f"write {mirror.relative_to(ROOT)}, or say in UNMIRRORED why not"
        assert "def test_" in mirror.read_text(encoding="utf-8")


def test_every_test_file_mirrors_a_module_or_tests_several_together():
    mirrors = {mirror_of(path) for path in FILES if path.name != "__init__.py"}
    found = {path.relative_to(TESTS).with_suffix("").as_posix() for path in TESTS.rglob("test_*.py")}
    assert found - mirrors == set(TOGETHER), "name it after its module, or say in TOGETHER what it tests"
    assert set(UNMIRRORED) <= set(MODULES), "a module in UNMIRRORED is gone"


def test_layers_name_each_room_once():
    rooms = [room for layer in LAYERS for room in layer]
    assert len(set(rooms)) == len(rooms)
    assert {room_of(module) for module in INNER_MODULES} == set(rooms)
    assert importlib.util.find_spec("celo").origin == str(SRC / "__init__.py"), "another celo is being tested"


def test_contributing_shows_these_layers():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    block = page.split("```text\n")[1].split("```")[0]
    shown = [line.split(maxsplit=1)[1].split() for line in block.strip().splitlines()]
    assert shown == LAYERS[::-1]
