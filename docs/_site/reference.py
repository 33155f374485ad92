"""The reference: a page for each public module, one for the command line, made of what the modules show.

A name is documented once, on the first page that shows it; later pages link there. A new public name is
picked up from its module's `__all__`; a new public module is a line in `FACES` and one in mkdocs.yml.
"""

import argparse
import functools
import importlib
import inspect
import re

FACES = ("", "optimizers", "transforms", "tasks", "data", "meta", "evaluate", "weights", "convert", "torch")

_CODE = re.compile(r"(^```.*?^```$)|(?<![`\[])`(celo(?:\.\w+)+)`(?![`\]])", re.DOTALL | re.MULTILINE)
_EXAMPLE = re.compile(r"(?:^ *>>> .*\n(?:^ *\S.*(?:\n|\Z))*)+", re.MULTILINE)
_SHOWN_KEYS = 40


@functools.cache
def names():
    """{dotted name: the page that documents it}, in the order of the pages."""
    homes, seen = {}, {}
    for face in FACES:
        for name in importlib.import_module(_dotted(face)).__all__:
            dotted = f"{_dotted(face)}.{name}"
            value = inspect.getattr_static(importlib.import_module(_dotted(face)), name, None)
            value = getattr(importlib.import_module(_dotted(face)), name) if value is None else value
            first = seen.setdefault(id(value), dotted) if callable(value) else dotted
            homes[dotted] = (page_of(face), first)
    return homes


def page_of(face):
    """The page of a public module."""
    return f"reference/{face or 'celo'}.md"


def pages():
    """{uri: Markdown} of the whole reference."""
    found = {page_of(face): _page(face) for face in FACES}
    found["reference/cli.md"] = _command_line()
    found["reference/index.md"] = _index()
    return found


def link_names(text):
    """`celo.accumulate` becomes a link to its entry, outside of fenced code."""
    known = {dotted: first for dotted, (_, first) in names().items()}

    def linked(match):
        if match[1] is not None or match[2] not in known:
            return match[0]
        return f"[`{match[2]}`][{known[match[2]]}]"

    return _CODE.sub(linked, text)


def fence_examples(docstring):
    """Examples of the form >>> in fences, which Markdown would otherwise take for quotations."""

    def fenced(match):
        lines = match[0].rstrip("\n").split("\n")
        indent = lines[0][: len(lines[0]) - len(lines[0].lstrip())]
        return "\n".join([f"{indent}```pycon", *lines, f"{indent}```"]) + "\n"

    return _EXAMPLE.sub(fenced, docstring)


def _dotted(face):
    return f"celo.{face}" if face else "celo"


def _page(face):
    module = importlib.import_module(_dotted(face))
    own, elsewhere = [], []
    for name in sorted(module.__all__, key=str.lower):
        dotted = f"{_dotted(face)}.{name}"
        _, first = names()[dotted]
        (own if first == dotted else elsewhere).append((dotted, first))
    text = [f"# `{_dotted(face)}`", ""]
    text += [
        f"::: {_dotted(face)}",
        "    options: {members: [], show_root_heading: false, show_root_toc_entry: false}",
        "",
    ]
    if elsewhere:
        text += ["Also here: " + ", ".join(f"[`{dotted}`][{first}]" for dotted, first in elsewhere) + ".", ""]
    for dotted, _ in own:
        text += [f"::: {dotted}", ""]
        value = getattr(module, dotted.rpartition(".")[2])
        if isinstance(value, dict | tuple):
            text += ["It has " + ", ".join(f"`{key}`" for key in value) + ".", ""]
        elif isinstance(value, str | int):
            text += [f"It is `{value!r}`.", ""]
    return "\n".join(text)


def _index():
    text = ["# Reference", "", "Every public name. Shapes are in brackets: `[seeds, steps]`.", ""]
    text += ["| module | for |", "|---|---|"]
    for face in FACES:
        first = inspect.getdoc(importlib.import_module(_dotted(face))).split("\n\n")[0].replace("\n", " ")
        text.append(f"| [`{_dotted(face)}`]({face or 'celo'}.md) | {link_names(first)} |")
    text.append("| [`celo` at the shell](cli.md) | the commands and their options |")
    return "\n".join(text) + "\n"


def _command_line():
    from celo.cli import make_parser

    parser, commands = make_parser()
    text = ["# Command line", "", parser.description, ""]
    text += ["| command | what it does |", "|---|---|"]
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    text += [f"| [`celo {c.dest}`](#celo-{c.dest}) | {c.help} |" for c in subparsers._choices_actions]
    for name, command in commands.items():
        command.formatter_class = functools.partial(argparse.HelpFormatter, width=88)
        text += ["", f"## celo {name}", "", "```text", command.format_help().rstrip(), "```"]
    return "\n".join(text) + "\n"
