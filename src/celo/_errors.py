"""Errors and warnings a user can act on: every message names the offending value and the remedy."""

import sysconfig
import textwrap
import traceback
from collections.abc import Collection, Iterable
from difflib import get_close_matches
from pathlib import Path

_SHOWN = 12  # names an error lists before it counts the rest
_LONGEST = 400  # characters of another's message that a line quotes
# Where code lies that is not the user's: this package, Python and what is installed.
_LIBRARIES = (
    "<",
    str(Path(__file__).parent),
    *map(sysconfig.get_path, ("stdlib", "platstdlib", "purelib", "platlib")),
)


class CeloError(ValueError):
    """Bad input. The command line prints the message alone, without a traceback."""


class OutOfRangeWarning(UserWarning):
    """A run is far outside what the weights were meta-trained on; the message says how far and what to do."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> CeloError:
    """The error for a name that is not registered; the nearest known names come first.

    Args:
      kind: what was looked up, for the message ("task", "data set", …).
      name: what the user wrote.
      known: every name that would have been accepted.
    """
    known = sorted(known)
    near = get_close_matches(name, known, n=3, cutoff=0.5)
    ordered = near + [other for other in known if other not in near]
    shown = ", ".join(ordered[:_SHOWN])
    rest = f" and {len(ordered) - _SHOWN} more" if len(ordered) > _SHOWN else ""
    return CeloError(f"unknown {kind} {name!r}; known, nearest first: {shown}{rest}")


def in_a_line(error: BaseException, own: Collection[str] = (), otherwise: str = "") -> str:
    """What went wrong: its type, its words and, if it came through a user's code, at which line of it.

    Args:
      error: any; a CeloError needs no type, and keeps its words as they are.
      own: top-level modules that are the user's wherever they are installed.
      otherwise: the place to name for an error that came through none of a user's code.
    """
    if isinstance(error, CeloError):
        words = str(error)
    else:
        words = ": ".join(
            filter(None, (type(error).__name__, textwrap.shorten(str(error), _LONGEST, placeholder=" …")))
        )
    place = own_place(error, own) or otherwise
    return f"{words} ({place})" if place not in words else words  # some causes have been told already


def own_place(error: BaseException | None, own: Collection[str] = ()) -> str:
    """The innermost line of a user's code that an error or its cause came through, or nothing."""
    while error is not None:
        if isinstance(error, SyntaxError):  # of a module that is being imported: none of its lines has run
            return f"{error.filename}:{error.lineno}"
        for frame, line in reversed(list(traceback.walk_tb(error.__traceback__))):
            code, module = frame.f_code, frame.f_globals.get("__name__", "").partition(".")[0]
            if module in own or not code.co_filename.startswith(_LIBRARIES):
                return f"{code.co_filename}:{line}, in {code.co_name}"
        error = error.__cause__
    return ""
