"""Curves worth keeping: one small columnar file for each task and contestant, with all that led to them.

An archive is a folder of files `<task>/<contestant>.npz`. Numbers are arrays, everything else is one JSON
text in the array "config". Whoever scores a new optimizer reads the others' curves from here and runs only
its own.
"""

import dataclasses
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from celo import weights
from celo._errors import CeloError

FORMAT = "celo-record/1"
_METRIC = "metric:"


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """All that is known of one contestant on one task; NumPy arrays, S reporting seeds, E evaluations.

    Attributes:
      task: name of the task.
      contestant: name of the optimizer, and the schedule if it has one.
      rate: the learning rate that tuning chose; None for who has none to be tuned.
      steps: [E] training steps before each evaluation, from 0 to the horizon.
      train_loss: [S, E] at the chosen rate, float32; not finite from where a run diverged.
      valid_loss: [S, E].
      metrics: name -> [S, E], on validation batches.
      rates: [R] the learning rates tried, rising; empty without tuning.
      rung_steps: [rungs] steps that the trials of each rung of tuning ran.
      rung_losses: [rungs, R] their smoothed training loss at the end, mean of the tuning seeds; inf where one
        diverged, NaN for a rate that was not in the rung.
      seconds_per_step: of one training run alone; `adam_seconds_per_step` of Adam beside it.
      config: settings, seeds, weights' sha256, versions, commit, machine, date: plain JSON.
    """

    task: str
    contestant: str
    rate: float | None
    steps: np.ndarray
    train_loss: np.ndarray
    valid_loss: np.ndarray
    metrics: Mapping[str, np.ndarray]
    rates: np.ndarray
    rung_steps: np.ndarray
    rung_losses: np.ndarray
    seconds_per_step: float
    adam_seconds_per_step: float
    config: Mapping[str, Any]

    @property
    def diverged(self) -> np.ndarray:
        """[S] bool: seeds whose training loss was not finite at some point; they count as lost from there."""
        return np.asarray(~np.isfinite(self.train_loss).all(axis=-1))


_ARRAYS = ("steps", "train_loss", "valid_loss", "rates", "rung_steps", "rung_losses")
_PLAIN = ("task", "contestant", "rate", "seconds_per_step", "adam_seconds_per_step")


def path_of(archive: Path, task: str, contestant: str) -> Path:
    """Where the record of `contestant` on `task` lies; a task of one's own may have a colon in its name."""
    return archive / task.replace(":", "+") / f"{contestant}.npz"


def write(archive: Path, record: Record) -> Path:
    """Write a record, whole or not at all; returns its path.

    Raises:
      CeloError: the folder or file cannot be written.
    """
    path = path_of(archive, record.task, record.contestant)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{path.parent}: cannot be made ({error.strerror}); choose another folder") from error
    header = {"format": FORMAT, "config": dict(record.config)}
    header |= {name: getattr(record, name) for name in _PLAIN}
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    weights.write_file(path, pack(record.metrics, config=np.array(json.dumps(header)), **arrays))
    return path


def read(path: Path) -> Record:
    """Read one record.

    Raises:
      CeloError: there is no such file, or it is damaged or of another format.
    """
    try:
        arrays, metrics = unpack(weights.read_file(path))
        header = json.loads(str(arrays["config"]))
        if header.get("format") != FORMAT:
            raise CeloError(f"{path} has the format {header.get('format')!r}, not {FORMAT!r}: run it again")
        columns: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        plain = {name: header[name] for name in _PLAIN}
        return Record(**plain, **columns, metrics=metrics, config=header["config"])
    except CeloError:
        raise
    except Exception as error:  # of a dozen types
        raise CeloError(f"{path} is damaged ({error}): delete it and run it again") from error


def pack(metrics: Mapping[str, np.ndarray], **arrays: np.ndarray) -> bytes:
    """Named arrays, and metrics beside them, as the bytes of an .npz."""
    content = io.BytesIO()
    named = {f"{_METRIC}{name}": array for name, array in metrics.items()}
    np.savez_compressed(content, allow_pickle=False, **arrays, **named)
    return content.getvalue()


def unpack(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(arrays, metrics) that `pack` was given; a damaged file may raise any of a dozen types of errors."""
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        every = {name: content[name] for name in content.files}
    metrics = {
        name.removeprefix(_METRIC): every.pop(name) for name in list(every) if name.startswith(_METRIC)
    }
    return every, metrics


def bundled(suite: str) -> Path:
    """The folder of records on a suite that the package brings along; it may not be there."""
    return Path(__file__).parent / "records" / suite


def read_all(archive: Path) -> list[Record]:
    """Every record of an archive, by task and contestant; none if there is no such folder.

    Raises:
      CeloError: a file is damaged.
    """
    return [read(path) for path in sorted(archive.glob("*/*.npz"))]
