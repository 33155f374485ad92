"""Docs are true: their Python runs, imports are public, commands parse, and links lead somewhere.

A block that cannot run here carries `<!-- not run: needs … -->` on the line before it; `NOT_RUN` counts them.
"""

import argparse
import ast
import contextlib
import doctest
import importlib
import inspect
import re
import shlex
import sys
from pathlib import Path
from unittest import mock

import jax
import pytest

import celo
from celo import weights
from celo.cli import _parse
from celo.evaluate import SUITES
from celo.meta import ESTIMATORS, RECIPES
from celo.optimizers import OPTIMIZERS
from celo.tasks import TASKS

ROOT = Path(__file__).resolve().parents[1]
PAGES = {
    str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md")))
}
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))
NOT_RUN = {"docs/evaluation.md": 1, "docs/tasks.md": 1}  # a cluster; SentencePiece and a corpus
FACES = ("", "tasks", "evaluate", "meta", "optimizers", "transforms", "weights", "convert", "data", "torch")
COMMANDS = ("train", "race", "evaluate", "report", "data", "convert", "info")

_FENCE = re.compile(r"(<!-- not run: needs .+? -->\n)?^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_CODE = re.compile(r"`([^`\n]+)`")


def blocks(page, language):
    """(body, whether it runs here) of each fenced block of a language, in order."""
    return [(body, not skip) for skip, found, body in _FENCE.findall(PAGES[page]) if found == language]


def inline_code(page):
    """What stands between single backquotes; a line break inside counts as a space."""
    text = re.sub(r"(?<=\S)\n(?=\S)", " ", _FENCE.sub("", PAGES[page]))
    return _CODE.findall(text)


WITH_PYTHON = [page for page in PAGES if blocks(page, "python")]


def test_there_is_something_to_read():
    assert {"README.md", "docs/loops.md", "docs/evaluation.md", "docs/tasks.md"} <= set(WITH_PYTHON)
    assert len(list(commands())) > 20


def test_blocks_are_of_languages_that_are_checked():
    for page, text in PAGES.items():
        assert {language for _, language, _ in _FENCE.findall(text)} <= {"python", "sh", "text"}, page


def test_few_blocks_are_not_run():
    counts = {page: sum(not runs for _, runs in blocks(page, "python")) for page in WITH_PYTHON}
    assert {page: count for page, count in counts.items() if count} == NOT_RUN
    markers = sum(text.count("<!-- not run") for text in PAGES.values())
    assert markers == sum(NOT_RUN.values()), "a marker that stands before no block"


# What users read first runs always.
SLOW = ("docs/tutorial/", "docs/howto/", "docs/how_it_works.md", "docs/optimizers.md", "docs/loops.md")


@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=[pytest.mark.slow] * page.startswith(SLOW)) for page in WITH_PYTHON]
)
def test_python_of_a_page_runs(page, tmp_path, monkeypatch):
    """All blocks of a page, one after another, as a reader would run them."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "docs"}
    with contextlib.ExitStack() as stack:
        stack.enter_context(jax.numpy_dtype_promotion("standard"))
        for registry in (OPTIMIZERS, TASKS):  # what a page registers goes with it
            stack.enter_context(mock.patch.dict(registry))
        for body, runs in blocks(page, "python"):
            if runs:
                exec(compile(body, page, "exec"), names)


def sources():
    """(where, source) of all Python that users are shown."""
    for page in PAGES:
        for body, _ in blocks(page, "python"):
            yield page, body
    for path in EXAMPLES:
        yield path.name, path.read_text(encoding="utf-8")


def resolve(dotted):
    """The object at "celo.a.b", if every part of the name is public; fails with the name if not."""
    parts = dotted.split(".")
    assert not [part for part in parts if part.startswith("_") and part != "__version__"], (
        f"{dotted} is private"
    )
    found = importlib.import_module(parts[0])
    for i, part in enumerate(parts[1:], start=2):
        if not hasattr(found, part):
            with contextlib.suppress(ModuleNotFoundError):
                importlib.import_module(".".join(parts[:i]))
        assert hasattr(found, part), f"there is no {dotted}"
        found = getattr(found, part)
    return found


def test_imports_are_public():
    seen = 0
    for where, source in sources():
        for node in ast.walk(ast.parse(source)):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                if name.split(".")[0] != "celo":
                    continue
                resolve(name)
                seen += 1
                if isinstance(node, ast.ImportFrom):
                    face = importlib.import_module(node.module)
                    public = [*getattr(face, "__all__", dir(face)), *(FACES if node.module == "celo" else ())]
                    assert name.rpartition(".")[2] in public, f"{where}: {name} is not public"
    assert seen > 10


@pytest.mark.parametrize("page", PAGES)
def test_names_in_the_text_exist(page):
    """`celo.x.y` in running text is a name of the library; `some/file.py` is a file of the repository."""
    for code in inline_code(page):
        for dotted in re.findall(r"(?<![\w./])celo(?:\.[A-Za-z_]\w*)+", code):
            if dotted.rpartition(".")[2] not in ("safetensors", "state", "json"):
                resolve(dotted)
        for path in re.findall(r"(?<![\w./])(?:tests|src|docs|benchmarks|results|examples)/[\w./]+\w", code):
            assert (ROOT / path).exists() or path.startswith("results/evaluation"), f"{page}: no {path}"


NEWCOMERS_READ = [
    page
    for page in PAGES
    if page in ("README.md", "docs/index.md", "docs/faq.md")
    or page.startswith(("docs/tutorial", "docs/howto", "docs/gallery"))
]


@pytest.mark.parametrize("page", NEWCOMERS_READ)
def test_no_paragraph_for_newcomers_drowns_in_numbers(page):
    text = re.sub(r"^(\|.*\n)+", "", _FENCE.sub("", PAGES[page]), flags=re.MULTILINE)
    for paragraph in text.split("\n\n"):
        words = re.sub(r"`[^`]*`|\(https?:[^)]*\)|arXiv [\d.]+", "", paragraph)
        numbers = re.findall(r"(?<![\w.])\d[\d,.]*", words)
        assert len(numbers) <= 3, paragraph


def test_readme_and_model_card_agree_with_the_results():
    """The suite's first table is the source: (rank, loss ratio, ratio in time) of a contestant."""
    table = PAGES["docs/results.md"].split("## Suite `paper`")[0].split("###")[0]
    rows = {}
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0].isdigit():
            rows.setdefault(cells[1], (int(cells[0]), cells[2].split()[0], cells[3].split()[0]))
    rank, ratio, in_time = rows["celo"]
    limits = weights.card("celo")["known_limits"]
    for number in (ratio, in_time, rows["adam_cosine"][1], rows["celo_published"][1]):
        assert number in limits
    readme = " ".join(PAGES["README.md"].split())
    assert f"loss ratio is {ratio}" in readme
    ordinals = ("first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth")
    assert f"**{ordinals[rank - 1]} of {len(rows)} optimizers" in readme


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", PAGES[page]):
        if target.startswith(("http:", "https:")):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        if file.resolve().parent == ROOT / "docs" / "reference":  # generated when the site is built
            assert file.stem in ("index", "cli", "celo", *FACES), target
            continue
        assert file.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]
            assert anchor in slugs, target


def commands():
    """(page, words) of each command in a block of shell."""
    for page in PAGES:
        for body, _ in blocks(page, "sh"):
            for line in body.replace("\\\n", " ").splitlines():
                if words := shlex.split(line, comments=True):
                    yield page, words


def parse_celo(words):
    """The real parser's options; names that it leaves to the command are looked up, too."""
    options = _parse(words)
    if words[0] in ("race", "evaluate", "report"):
        tasks = options.tasks if isinstance(options.tasks, list) else [options.tasks]
        assert all(":" in task or task in TASKS for task in tasks), tasks
        assert getattr(options, "suite", None) in (None, *SUITES)
    if words[0] == "train":
        assert options.recipe in (None, *RECIPES)
        assert options.estimator in (None, *ESTIMATORS)


class _ParsedError(Exception):
    """The arguments of a benchmark have been read, and it shall do no more."""


def parse_benchmark(module, arguments, monkeypatch):
    real = argparse.ArgumentParser.parse_args

    def parse_and_stop(parser, *given):
        real(parser, *given)
        raise _ParsedError

    with monkeypatch.context() as patch:
        patch.syspath_prepend(ROOT)
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_stop)
        patch.setattr(sys, "argv", [module, *arguments])
        with contextlib.suppress(_ParsedError):
            importlib.import_module(module).main()
            pytest.fail(f"{module} ran without reading arguments")


@pytest.mark.parametrize(("page", "words"), list(commands()), ids=lambda value: str(value)[:60])
def test_commands_parse(page, words, monkeypatch):
    if "celo" in words[:1] or words[0] in ("srun", "mpirun"):
        parse_celo(words[words.index("celo") + 1 :])
    elif words[0] == "make":
        makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
        for target in words[1:]:
            assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE), target
    elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
        parse_benchmark(words[2], words[3:], monkeypatch)
    elif words[:3] == [".venv/bin/python", "-m", "pytest"]:
        assert (ROOT / words[-1]).is_file(), words[-1]
    elif words[0] == "python":
        assert (ROOT / words[1]).is_file()
    else:
        assert words[0] in ("pip", "dask", "git", "cd", "eval"), (
            f"{page}: not known how to check {shlex.join(words)}"
        )


def options_of(command, capsys):
    with pytest.raises(SystemExit):
        _parse([command, "--help"])
    return set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))


def test_options_in_the_text_exist(capsys, monkeypatch):
    """`celo train --estimator` in running text: the command has the option. `--estimator` alone: one has."""
    known = {command: options_of(command, capsys) for command in COMMANDS}
    benchmarks = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks").glob("*.py"))
    every = set().union(*known.values(), re.findall(r'"(--[a-z-]+)"', benchmarks), {"--version"})
    for page in PAGES:
        for code in inline_code(page):
            words = shlex.split(code) if code.startswith("python -m ") else code.split()
            options = {word for word in words if re.fullmatch(r"--[a-z][a-z-]*", word)}
            if words[0] == "celo" and len(words) > 1 and not words[1].startswith("-"):
                assert words[1] in COMMANDS, f"{page}: `{code}`"
                assert options <= known[words[1]], f"{page}: `{code}`"
            elif words[:2] == ["python", "-m"] and words[2].startswith("benchmarks."):
                parse_benchmark(words[2], words[3:], monkeypatch)
            elif words[0] not in ("pip", "dask", "tensorboard"):
                assert options <= every, f"{page}: `{code}`"


def public_objects():
    """name -> object, of all that the faces show."""
    found = {}
    for face in FACES:
        module = importlib.import_module(f"celo.{face}" if face else "celo")
        names = getattr(module, "__all__", None)
        if names is None:
            names = [name for name, value in vars(module).items() if is_its_own(value, module)]
        for name in names:
            value = getattr(module, name)
            if inspect.ismodule(value):
                found |= {
                    f"{value.__name__}.{inner}": one
                    for inner, one in vars(value).items()
                    if is_its_own(one, value)
                }
            elif inspect.isclass(value) or inspect.isfunction(value):
                found[f"{module.__name__}.{name}"] = value
    return {name: value for name, value in found.items() if value.__module__.startswith("celo.")}


def is_its_own(value, module):
    named = inspect.isfunction(value) or inspect.isclass(value)
    return named and value.__module__ == module.__name__ and not value.__name__.startswith("_")


def examples():
    """name -> doctest, each object once, under its shortest name."""
    objects = {}
    for name, value in sorted(public_objects().items(), key=lambda item: len(item[0])):
        objects.setdefault(id(value), (name, value))
    finder = doctest.DocTestFinder(recurse=True)
    tests = [test for name, value in objects.values() for test in finder.find(value, name) if test.examples]
    return {test.name: test for test in tests}


DOCTESTS = examples()


# They take seconds, and show what the example of `celo.adafac_mlp` shows.
SLOW_EXAMPLES = ("celo.rnn_mlp", "celo.velo")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in SLOW_EXAMPLES)) for name in DOCTESTS]
)
def test_examples_of_docstrings_run(name):
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE)
    with jax.numpy_dtype_promotion("standard"):
        failed, attempted = runner.run(DOCTESTS[name])
    assert attempted
    assert not failed


def test_every_public_function_of_celo_has_an_example():
    functions = [name for name in celo.__all__ if inspect.isfunction(getattr(celo, name))]
    assert len(functions) > 10
    assert [name for name in functions if f"celo.{name}" not in DOCTESTS] == []
