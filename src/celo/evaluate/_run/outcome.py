"""What runs found, and its file until the record is made: after an interruption nothing is run again."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from celo import weights
from celo.evaluate import _records as archive
from celo.evaluate._run.training import Curve


class Outcome(NamedTuple):
    """What a trial found.

    Attributes:
      curve: arrays [rates, seeds, E].
      seconds: of a step, this contestant's and Adam's; NaN if not timed.
      origin: commit, versions and machine of the process that ran it.
    """

    curve: Curve
    seconds: tuple[float, float]
    origin: Mapping[str, str | None]


def write(path: Path, outcome: Outcome) -> None:
    """Keep an outcome in a file, whole or not at all.

    Raises:
      CeloError: it cannot be written.
    """
    arrays = outcome.curve._asdict()
    metrics = arrays.pop("metrics")
    origin = np.array(json.dumps(outcome.origin))
    weights.write_file(
        path, archive.pack(metrics, seconds=np.array(outcome.seconds), origin=origin, **arrays)
    )


def read(path: Path) -> Outcome | None:
    """The outcome in a file, if it is there and whole; one that is not is deleted, to be run again."""
    if not path.exists():
        return None
    try:
        arrays, metrics = archive.unpack(path.read_bytes())
        seconds, origin = arrays.pop("seconds").tolist(), json.loads(str(arrays.pop("origin")))
        return Outcome(Curve(**arrays, metrics=metrics), tuple(seconds), origin)
    except Exception:
        path.unlink()
        return None
