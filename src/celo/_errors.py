"""Errors and warnings a user can act on: every message names the offending value and the remedy."""

from collections.abc import Iterable
from difflib import get_close_matches

_SHOWN = 12  # names an error lists before it counts the rest


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
