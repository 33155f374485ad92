"""`celo train --log tensorboard`: the rows of a run's log as curves, in the folder of the run."""

import importlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celo._errors import CeloError, unknown_name

LOGS = ("tensorboard",)
FOLDER = "tensorboard"  # in that of the run

OnRow = Callable[[Mapping[str, Any]], None]


@contextmanager
def row_writer(log: str | None, run: Path) -> Iterator[OnRow | None]:
    """A function that adds a row to the curves, as long as the block runs; None where no log is asked for.

    Nothing is written before the first row. Rows that a resumed run repeats are the same points again.

    Raises:
      CeloError: for an unknown log, or without tensorboardX.
    """
    if log is None:
        yield None
        return
    if log not in LOGS:
        raise unknown_name("log", log, LOGS)
    try:
        tensorboard = importlib.import_module("tensorboardX")
    except ImportError as error:
        raise CeloError("--log tensorboard needs tensorboardX: pip install 'celo[tensorboard]'") from error
    writers: list[Any] = []

    def write(row: Mapping[str, Any]) -> None:
        if not writers:
            writers.append(tensorboard.SummaryWriter(str(run / FOLDER)))
        for name, value in curves(row).items():
            writers[0].add_scalar(name, value, row["outer_step"])

    try:
        yield write
    finally:
        for writer in writers:
            writer.close()


def curves(row: Mapping[str, Any]) -> dict[str, float]:
    """Name of a curve -> its value in a row; each phase has curves of its own, since it counts from 0.

    A colon, as in the name of a task of one's own, may not be in that of a curve.
    """
    plain = ("meta_loss", "gradient_norm", "nonfinite_fraction", "inner_steps_per_second")
    values = {name: row[name] for name in plain}
    values |= {f"loss/{task.replace(':', '_')}": loss for task, loss in row["tasks"].items()}
    return {f"{row['phase']}/{name}": value for name, value in values.items()}
