"""The site of the documentation: the reference has every public name, pages join, notebooks run.

`make docs` builds it, and fails for a link or a docstring that it cannot show; here is what needs no MkDocs.
"""

import ast
import importlib
import importlib.util
import inspect
import itertools
import json
import re
from pathlib import Path

import pytest

import celo
from celo import cli

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))


def part(name):
    """A module of docs/_site, which is no package."""
    spec = importlib.util.spec_from_file_location(f"site_{name}", ROOT / "docs" / "_site" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


reference, repository, notebooks = part("reference"), part("repository"), part("notebooks")


def test_the_reference_has_every_public_module():
    assert set(reference.FACES) == {"", *celo._FACES}
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    for page in reference.pages():
        assert f" {page}" in navigation, f"mkdocs.yml does not name {page}"


@pytest.mark.parametrize("face", reference.FACES)
def test_the_reference_has_every_public_name(face):
    """Each is documented on one page; where it is shown again there is a link."""
    module = f"celo.{face}" if face else "celo"
    text = reference.pages()[reference.page_of(face)]
    documented = re.findall(r"^::: (\S+)", text, re.MULTILINE)
    assert len(set(documented)) == len(documented)
    everywhere = "".join(reference.pages().values())
    for name in importlib.import_module(module).__all__:
        dotted = f"{module}.{name}"
        linked = re.search(rf"\[`{re.escape(dotted)}`\]\[([\w.]+)\]", text)
        assert (dotted in documented) != bool(linked), dotted
        if linked:
            assert f"::: {linked[1]}\n" in everywhere, f"{dotted} leads nowhere"


def explained_constants():
    """Names that are assigned in a module of ours with a text beneath."""
    for path in (ROOT / "src" / "celo").rglob("*.py"):
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for node, below in itertools.pairwise(body):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(below, ast.Expr):
                target = node.targets[0] if isinstance(node, ast.Assign) else node.target
                if isinstance(target, ast.Name) and isinstance(below.value, ast.Constant):
                    yield target.id


def test_every_public_name_says_what_it_is():
    explained = set(explained_constants())
    for name in reference.names():
        module, _, short = name.rpartition(".")
        value = getattr(importlib.import_module(module), short)
        if inspect.isclass(value) or inspect.isfunction(value) or inspect.ismodule(value):
            assert value.__doc__, name
        else:
            assert short in explained, f"{name} has no text under its assignment"


def test_the_reference_has_every_command_and_option():
    page = reference.pages()["reference/cli.md"]
    _, commands = cli.make_parser()
    for name, command in commands.items():
        section = page.split(f"## celo {name}\n")[1].split("\n## ")[0]
        for option in command._option_string_actions:
            assert option in section, f"celo {name} {option}"


def test_names_become_links_but_not_in_code():
    text = "`celo.celo` and `celo.nothing`, [`celo.plan`](x)\n```python\n`celo.celo`\n```\n"
    linked = reference.link_names(text)
    assert linked == text.replace("`celo.celo` and", "[`celo.celo`][celo.celo] and", 1)
    assert reference.link_names("`celo.optimizers.celo`") == "[`celo.optimizers.celo`][celo.celo]"


def test_examples_stand_in_fences():
    docstring = "What it is.\n\n>>> 1 + 1\n2\n\nMore.\n"
    assert reference.fence_examples(docstring) == "What it is.\n\n```pycon\n>>> 1 + 1\n2\n```\n\nMore.\n"
    indented = "    >>> for i in (1,):\n    ...     i\n    1"
    assert reference.fence_examples(indented) == f"    ```pycon\n{indented}\n    ```\n"


def test_links_out_of_docs_lead_to_copies():
    turned = repository.rewrite_links("[a](../examples/train_digits.py) [b](loops.md#x)", "pytorch.md")
    assert turned == "[a](repository/examples/train_digits.md) [b](loops.md#x)"
    back = repository.rewrite_links("[a](docs/extending.md) ![b](https://x.y)", "repository/CONTRIBUTING.md")
    assert back == "[a](../extending.md) ![b](https://x.y)"
    deeper = repository.rewrite_links("[a](../../results/LOG.md#x)", "tutorial/train.md")
    assert deeper == "[a](../repository/results/LOG.md#x)"
    code = "```md\n[a](../README.md)\n```"
    assert repository.rewrite_links(code, "loops.md") == code
    found = repository.linked()
    assert found["repository/results/LOG.md"] == ROOT / "results" / "LOG.md"
    # A page that is linked brings along what it links to.
    assert "repository/results/estimators/variance.png" in found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_keep_their_outputs(path):
    """Small files whose cells were run in order; the pages of the site show them."""
    assert path.stat().st_size < 300_000
    cells = [c for c in json.loads(path.read_text(encoding="utf-8"))["cells"] if c["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    assert any("image/png" in output.get("data", {}) for cell in cells for output in cell["outputs"])
    page = notebooks.pages()[f"notebooks/{path.stem}.md"]
    assert page.startswith("# ")
    assert page.count("```python") == len(cells)


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path, tmp_path):
    notebook = json.loads(path.read_text(encoding="utf-8"))
    before = [output_kinds(cell) for cell in notebook["cells"]]
    notebooks.run(notebook, tmp_path)
    assert [output_kinds(cell) for cell in notebook["cells"]] == before


def output_kinds(cell):
    return [output["output_type"] for output in cell.get("outputs", [])]


def test_how_a_cell_is_run(tmp_path):
    pytest.importorskip("matplotlib")
    sources = ["%%writefile mine.py\nx = 2", "import mine\nprint('one')\nmine.x", "mine.x;"]
    cells = [{"cell_type": "code", "source": [source]} for source in sources]
    notebooks.run({"cells": cells}, tmp_path)
    assert cells[0]["outputs"][0]["text"] == ["Writing mine.py\n"]
    printed, value = cells[1]["outputs"]
    assert printed["text"] == ["one\n"]
    assert value["data"] == {"text/plain": ["2"]}
    assert cells[2]["outputs"] == []
