"""celo data: the real data sets, listed and fetched."""

import argparse
from collections.abc import Iterator
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table

from celo._errors import unknown_name
from celo.cli._console import plain_console


def add_data(commands: Any) -> argparse.ArgumentParser:
    """Adds `celo data` to the commands."""
    parser = commands.add_parser("data", help="list real data sets, or download them into the cache")
    parser.add_argument("action", choices=("list", "fetch"))
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help="data sets to list in full, or to fetch (default: all that can be downloaded)",
    )
    parser.set_defaults(run=_data)
    return parser


def _data(options: argparse.Namespace) -> int:
    from celo import data

    fetch = options.action == "fetch"
    for name in options.names:
        if name not in data.DATASETS and name not in data.CORPORA:
            raise unknown_name("data set", name, (*data.DATASETS, *data.CORPORA))
        if fetch and name in data.CORPORA:
            data.load_tokens(name)  # no package has it: the error says which files to supply
    if fetch:
        asked_for = ("svhn", "cifar100")  # no package has them
        for name in options.names or [name for name in data.DATASETS if name not in asked_for]:
            print(f"{name}: {data.raw_dir(name) if name in data.CORPORA else data.fetch(name)}")
    elif options.names:
        for name in options.names:
            print("\n".join(_in_full(name)))
    else:
        plain_console().print(_table())
    return 0


def _table() -> Table:
    """A row a data set, for a terminal of 80 columns."""
    from celo import data

    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"cache: {data.data_dir()}", title_justify="left")
    table.add_column("name", no_wrap=True)
    table.add_column("what; licence")
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("cached", no_wrap=True)
    for name, info in data.DATASETS.items():
        cached = "yes" if data.is_cached(name) else "no"
        table.add_row(name, f"{info.title}; {info.licence}", f"{info.examples:,}", cached)
    for name, title in data.CORPORA.items():
        table.add_row(name, title, "your own", "yes" if data.raw_dir(name).is_dir() else "no")
    return table


def _in_full(name: str) -> Iterator[str]:
    """All there is to say of a data set, a fact a line."""
    from celo import data

    if name in data.CORPORA:
        yield f"{name}: {data.CORPORA[name]}"
        yield f"  word pieces below {data.PIECES:,}, which you supply in {data.raw_dir(name)}"
        return
    info = data.DATASETS[name]
    yield f"{name}: {info.title}"
    yield f"  {info.kind}, one of shape {list(info.shape)}, {info.num_classes or 'no'} classes"
    parts = (info.train_examples, info.valid_examples, info.test_examples)
    parts = " + ".join(f"{part:,}" for part in parts)
    yield f"  {info.examples:,} examples: {parts} to train, validate and test"
    yield f"  licence: {info.licence}"
    yield f"  source: {info.source}"
    yield f"  cached: {'yes' if data.is_cached(name) else 'no'}, in {data.data_dir()}"
