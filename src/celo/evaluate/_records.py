"""Records: training curves worth keeping, and all that led to them.

An archive is a folder of files `<task>/<contestant>.npz`, or the same files in one .zip. In a record file
numbers are arrays, everything else is one JSON text in the array "config". Whoever scores a new optimizer
reads the others' curves from an archive and runs only their own.
"""

import dataclasses
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from celo._errors import CeloError
from celo._files import make_folder, read_file, write_file
from celo.evaluate._settings import ADAM, Provenance, Settings, as_json, comparable, from_json

FORMAT = "celo-record/1"
_METRIC = "metric:"
_EQUAL_TIME = "equal_time:"


class EqualTime(NamedTuple):
    """Runs that had the time of Adam's and knew it: as many steps as fit in, under a schedule made for them.

    Attributes:
      steps: [F] training steps before each evaluation, from 0 to that horizon; F is about E of the record.
      train_loss: [S, F] as in the record, at the same rate and with the same seeds.
      valid_loss: [S, F].
    """

    steps: np.ndarray
    train_loss: np.ndarray
    valid_loss: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Record:
    """One contestant on one task; NumPy arrays, S reported seeds, E evaluations, R learning rates.

    Attributes:
      task: name of the task.
      contestant: name of the optimizer.
      rate: the learning rate that tuning chose, or that was given; None for a learned optimizer.
      steps: [E] training steps before each evaluation, from 0 to the horizon.
      train_loss: [S, E] at the chosen rate, float32; not finite from where a run diverged.
      valid_loss: [S, E].
      metrics: name -> [S, E], on validation batches.
      rates: [R] the learning rates tried, rising; empty without tuning.
      rung_steps: [rungs] steps that the trials of each rung of tuning ran.
      rung_losses: [rungs, R] their smoothed training loss at the end, mean of the tuning seeds; inf where one
        diverged, NaN for a rate that was not in the rung.
      seconds_per_step: of one training run alone; `adam_seconds_per_step` of Adam beside it.
      settings: how the record was meant to be made.
      provenance: where it was made.
      equal_time: the runs in the time of Adam's; None if there were none. Adam's own are its only ones.
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
    settings: Settings
    provenance: Provenance
    equal_time: EqualTime | None = None

    @property
    def in_adams_time(self) -> EqualTime | None:
        """The runs that had the time of Adam's, Adam's own among them; None where there were none."""
        if self.contestant == ADAM:
            return EqualTime(self.steps, self.train_loss, self.valid_loss)
        return self.equal_time

    @property
    def seeds(self) -> tuple[int, ...]:
        """[S] the seeds."""
        return self.settings.protocol.seeds

    @property
    def diverged(self) -> np.ndarray:
        """[S] bool: seeds whose training loss was not finite at some point; they count as lost from there."""
        return np.asarray(~np.isfinite(self.train_loss).all(axis=-1))

    def facts(self) -> dict[str, Any]:
        """Settings and provenance as one JSON object."""
        return as_json(self.settings, self.provenance)


_ARRAYS = ("steps", "train_loss", "valid_loss", "rates", "rung_steps", "rung_losses")
_PLAIN = ("task", "contestant", "rate", "seconds_per_step", "adam_seconds_per_step")


def path_of(archive: Path, task: str, contestant: str) -> Path:
    """Where the record of `contestant` on `task` lies; a task of your own may have a colon in its name."""
    return archive / task.replace(":", "+") / f"{contestant}.npz"


def write_record(archive: Path, record: Record) -> Path:
    """Write a record, whole or not at all; returns its path.

    Raises:
      CeloError: the folder or file cannot be written.
    """
    path = path_of(archive, record.task, record.contestant)
    make_folder(path.parent)
    write_file(path, _to_bytes(record))
    return path


def _to_bytes(record: Record) -> bytes:
    header = {"format": FORMAT, "config": record.facts()}
    header |= {name: getattr(record, name) for name in _PLAIN}
    arrays = {name: getattr(record, name) for name in _ARRAYS}
    if record.equal_time is not None:
        arrays |= {f"{_EQUAL_TIME}{name}": x for name, x in record.equal_time._asdict().items()}
    return pack_arrays(record.metrics, config=np.array(json.dumps(header)), **arrays)


def read_record(path: Path) -> Record:
    """Read one record.

    Raises:
      CeloError: there is no such file, or it is damaged or of another format.
    """
    return _from_bytes(read_file(path), str(path))


def _from_bytes(data: bytes, place: str) -> Record:
    try:
        arrays, metrics = unpack_arrays(data)
        header = json.loads(str(arrays["config"]))
        if header.get("format") != FORMAT:
            raise CeloError(f"{place} has the format {header.get('format')!r}, not {FORMAT!r}: run it again")
        columns: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
        columns |= {name: header[name] for name in _PLAIN}
        if f"{_EQUAL_TIME}steps" in arrays:  # older records have none
            runs = EqualTime(*(arrays[f"{_EQUAL_TIME}{name}"] for name in EqualTime._fields))
            columns["equal_time"] = runs
        settings, provenance = from_json(header["config"])
        return Record(**columns, metrics=metrics, settings=settings, provenance=provenance)
    except CeloError:
        raise
    except Exception as error:  # of a dozen types
        raise CeloError(f"{place} is damaged ({error}): delete it and run it again") from error


def pack_arrays(metrics: Mapping[str, np.ndarray], **arrays: np.ndarray) -> bytes:
    """Named arrays, and metrics beside them, as the bytes of an .npz."""
    content = io.BytesIO()
    named = {f"{_METRIC}{name}": array for name, array in metrics.items()}
    np.savez_compressed(content, allow_pickle=False, **arrays, **named)
    return content.getvalue()


def unpack_arrays(data: bytes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(arrays, metrics) that `pack_arrays` was given; a damaged file may raise any of a dozen error types."""
    with np.load(io.BytesIO(data), allow_pickle=False) as content:
        every = {name: content[name] for name in content.files}
    metrics = {
        name.removeprefix(_METRIC): every.pop(name) for name in list(every) if name.startswith(_METRIC)
    }
    return every, metrics


def load_records(*archives: str | PathLike[str]) -> list[Record]:
    """The records of archives, by task and contestant; where several have one, that of the first counts.

    Args:
      archives: folders that `evaluate` wrote, or .zip files of `pack_records`.

    Raises:
      CeloError: there is no such archive, or a file is damaged.
    """
    found: dict[tuple[str, str], Record] = {}
    for archive in archives:
        for place, data in _files_of(Path(archive)).items():
            record = _from_bytes(data, f"{archive}/{place}")
            found.setdefault((record.task, record.contestant), record)
    return list(found.values())


def pack_records(archives: Sequence[str | PathLike[str]] | str | PathLike[str], path: Path | str) -> int:
    """Write the records of archives into one .zip, the same bytes every time; returns how many.

    The files of the records are copied as they are. Where several archives have one, the first counts.

    Raises:
      CeloError: as `load_records`; there are no records; or the file cannot be written.
    """
    several = [archives] if isinstance(archives, str | PathLike) else archives
    files: dict[str, bytes] = {}
    for archive in several:
        for name, data in _files_of(Path(archive)).items():
            files.setdefault(name, data)
    if not files:
        raise CeloError(f"{', '.join(map(str, several))}: no records to pack; make some with `celo evaluate`")
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_STORED) as packed:  # an .npz is compressed already
        for name in sorted(files):
            packed.writestr(zipfile.ZipInfo(name), files[name])  # dated 1980, whenever it is made
    write_file(path, content.getvalue())
    return len(files)


def _files_of(archive: Path) -> dict[str, bytes]:
    """Name inside the archive -> bytes of a record file, sorted."""
    if archive.is_dir():
        paths = sorted(archive.glob("*/*.npz"))
        return {path.relative_to(archive).as_posix(): read_file(path) for path in paths}
    if not archive.exists():
        raise CeloError(f"{archive}: there is no such archive; make one with `celo evaluate`")
    try:
        with zipfile.ZipFile(io.BytesIO(read_file(archive))) as packed:
            names = sorted(name for name in packed.namelist() if name.endswith(".npz"))
            return {name: packed.read(name) for name in names}
    except CeloError:
        raise
    except Exception as error:  # of a dozen types
        raise CeloError(f"{archive} is no archive, or damaged ({error}); fetch or make it again") from error


def bundled_archive(suite: str) -> Path:
    """The archive of Adam's records on a suite that the package brings along; it may not be there."""
    return Path(__file__).parent / "records" / f"{suite}.zip"


def with_bundled(records: Sequence[Record], suite: str) -> list[Record]:
    """The records, and those of the package on the same tasks that are missing and comparable with all."""
    archive = bundled_archive(suite)
    known = load_records(archive) if archive.exists() else []
    have = {(record.task, record.contestant) for record in records}
    mine: dict[str, list[Record]] = {}
    for record in records:
        mine.setdefault(record.task, []).append(record)
    added = [
        record
        for record in known
        if (record.task, record.contestant) not in have
        and record.task in mine
        and all(comparable(record.settings, one.settings) for one in mine[record.task])
    ]
    return [*records, *added]
