"""celo data: the real data sets, listed and fetched."""

import argparse
from typing import Any

from rich.table import Table

from celo._errors import unknown_name
from celo.cli._console import plain_console


def add_data(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo data` to the commands."""
    parser = commands.add_parser("data", help="list real data sets, or download them into the cache")
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="data sets to fetch (default: all that can be downloaded)"
    )
    parser.set_defaults(run=_data)
    return parser


def _data(options: argparse.Namespace) -> int:
    from celo import data

    if options.action == "fetch":
        for name in options.names:
            if name in data.CORPORA:
                data.load_tokens(name)  # no package has it: the error says which files to supply
            elif name not in data.DATASETS:
                raise unknown_name("data set", name, (*data.DATASETS, *data.CORPORA))
        asked_for = ("svhn", "cifar100")  # no package has them
        for name in options.names or [name for name in data.DATASETS if name not in asked_for]:
            print(
                f"{name}: {data.raw_dir(name) if name in data.CORPORA else data.fetch(name, apt_update=True)}"
            )
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
    plain_console().print(table)
    return 0
