"""Renews the tables of docs/results.md from the records that the repository holds.

    python -m benchmarks.results_page    # then read the text around them: it has figures, too

A table follows a comment that says what it is of: `<!-- table: KEY [--OPTION …] -->`, where KEY is one of
`BOARDS`, and the options are the columns and how many rows. A slow test fails where a table is not what the
records say.
"""

import argparse
import functools
import re
import shlex
from pathlib import Path
from typing import Any

from celo.evaluate import leaderboard, load_records
from celo.evaluate._report import tables
from celo.evaluate._score.leaderboard import Leaderboard

PAGE = Path("docs/results.md")
ARCHIVES = ("results/evaluation/laptop.zip", "src/celo/evaluate/records/laptop.zip")
NEW_DATA = (
    *("breast_cancer_mlp", "diabetes_mlp", "china_fourier", "china_siren"),
    *("kjv_lstm", "kjv_gru", "kjv_transformer"),
)
BOARDS: dict[str, dict[str, Any]] = {
    "all": {},
    "new-data": {"tasks": NEW_DATA},
    "validation": {"loss": "valid"},
}
TABLE = re.compile(r"(<!-- table: (?P<words>.*?) -->\n\n)(?:\|.*\n)*")


@functools.cache
def board_of(key: str) -> Leaderboard:
    """The leaderboard of `BOARDS`; two tables are of one."""
    return leaderboard(load_records(*ARCHIVES), **BOARDS[key])


def table(words: str) -> str:
    """The table that a comment asks for, in Markdown."""
    parser = argparse.ArgumentParser("table")
    parser.add_argument("board", choices=BOARDS)
    parser.add_argument("--columns", default="", help="headers, with commas between them (default: all)")
    parser.add_argument("--rows", type=int, default=None, help="how many (default: all)")
    parser.add_argument("--by-task", action="store_true", help="ratios on each task instead of scores")
    options = parser.parse_args(shlex.split(words))
    board = board_of(options.board)
    header, rows = tables.task_cells(board) if options.by_task else tables.cells(board)
    wanted = [name.strip() for name in options.columns.split(",")] if options.columns else header
    places = [header.index(name) for name in wanted]
    names = {"contestant", "task"}
    lines = [wanted, [":--" if name in names else "--:" for name in wanted]]
    lines += [[row[i] for i in places] for row in rows[: options.rows]]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def renewed(text: str) -> str:
    """The page with its tables made anew."""
    return TABLE.sub(lambda found: found[1] + table(found["words"]), text)


def main() -> None:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter).parse_args()
    PAGE.write_text(renewed(PAGE.read_text()))


if __name__ == "__main__":
    main()
