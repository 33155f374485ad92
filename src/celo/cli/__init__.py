"""The command line: celo train, race, evaluate, report, data, convert, info.

Here: options, terminal output, progress bars and signals, one group of commands a file. What the commands do
lives in `celo.meta`, `celo.evaluate`, `celo.data`, `celo.convert` and `celo.weights`: use those from Python,
and `main` to run a command.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from typing import NoReturn

from celo import __version__
from celo._errors import CeloError, in_a_line, own_place, unknown_name
from celo._jaxlib import avoid_faults
from celo.cli._completion import complete
from celo.cli._console import any_terminal
from celo.cli._data import add_data
from celo.cli._evaluate import add_evaluate, add_race, add_report
from celo.cli._settings import INTERRUPTED
from celo.cli._train import add_train
from celo.cli._weights import add_convert, add_info


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit status.

    A user's mistake is one line on stderr and status 2; so is what the system refuses (a full disk, a folder
    that cannot be written) and what fails in a user's own code, with status 1.
    """
    with any_terminal():
        return _main(sys.argv[1:] if arguments is None else list(arguments))


def _main(arguments: list[str]) -> int:
    log = logging.StreamHandler()  # what the library has to say, such as which data set it downloads
    log.setFormatter(logging.Formatter("celo: %(message)s"))
    logger = logging.getLogger("celo")
    logger.addHandler(log)
    logger.setLevel(logging.INFO)
    try:
        options = _parse(arguments)
        avoid_faults()
        return options.run(options)
    except CeloError as error:
        print(f"celo: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("celo: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(
            f"celo: {where}{error.strerror or error}; check the path, its permissions and the free space",
            file=sys.stderr,
        )
        return 1
    except Exception as error:
        if not own_place(error):
            raise
        print(f"celo: {in_a_line(error)}", file=sys.stderr)  # a task of the user's, in training for instance
        return 1
    finally:
        logger.removeHandler(log)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise CeloError(f"{message}; see `{self.prog} --help`")


def make_parser() -> tuple[argparse.ArgumentParser, dict[str, argparse.ArgumentParser]]:
    """The parser of the whole command line, and that of each command by its name."""
    parser = _Parser(
        prog="celo", description="Learned optimizers: meta-train them and compare them with others."
    )
    parser.add_argument("--version", action="version", version=f"celo {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND")
    makers = {
        "train": add_train,
        "race": add_race,
        "evaluate": add_evaluate,
        "report": add_report,
        "data": add_data,
        "convert": add_convert,
        "info": add_info,
    }
    return parser, {name: add(commands) for name, add in makers.items()}


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser, parsers = make_parser()
    complete(parser)
    if not arguments or arguments[0] not in ("-h", "--help", "--version", *parsers):
        if not arguments:
            parser.print_help()
            raise SystemExit(2)
        raise unknown_name("command", arguments[0], parsers)
    options, extra = parser.parse_known_args(arguments)
    if extra:
        known = parsers[arguments[0]]._option_string_actions
        raise unknown_name(
            f"option of `celo {arguments[0]}`", extra[0], [o for o in known if o.startswith("--")]
        )
    return options
