"""The folder in which data sets are cached, and its files: .npz archives of uint8 arrays."""

import io
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from celo._errors import CeloError
from celo._files import make_folder, platform_cache, write_file

ENVIRONMENT_VARIABLE = "CELO_DATA_DIR"


class DamagedCacheError(CeloError):
    """A cache file that is incomplete or not what its name says; it can be deleted and made again."""


def data_dir() -> Path:
    """The folder of cached data sets, created if missing: `CELO_DATA_DIR` or the platform's cache folder.

    Raises:
      CeloError: it is a file, or cannot be created or written to.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    folder = Path(chosen).expanduser() if chosen else platform_cache() / "celo"
    remedy = f"set {ENVIRONMENT_VARIABLE} to a writable folder"
    make_folder(folder, remedy)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CeloError(f"data folder {folder} is not writable; {remedy}")
    return folder.absolute()


def raw_dir(name: str) -> Path:
    """The folder for the official files of a set that a user supplies; not created."""
    return data_dir() / "raw" / name


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz atomically: `path` is whole or does not exist, also after a crash.

    Raises:
      CeloError: the disk is full or the folder not writable.
    """
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **arrays)
    try:
        write_file(path, buffer.getvalue())
    except CeloError as error:
        raise CeloError(f"{error}; or set {ENVIRONMENT_VARIABLE} to another folder") from error


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read a cache file in full, which also compares the checksums that an .npz keeps of every array.

    Args:
      path: an .npz that `write_arrays` made.
      shapes: the uint8 arrays it must hold.

    Raises:
      DamagedCacheError: it is cut short, altered, or holds other arrays.
    """
    try:
        # Opened here because np.load would leave a file that is no .npz open.
        with path.open("rb") as file, np.load(file) as content:
            arrays = {key: content[key] for key in shapes}
    except Exception as error:  # a wrong byte can raise a dozen different types
        raise DamagedCacheError(f"{path} is damaged ({error}): delete it") from error
    for key, shape in shapes.items():
        if arrays[key].shape != shape or arrays[key].dtype != np.uint8:
            content = f"{arrays[key].dtype} {arrays[key].shape}"
            raise DamagedCacheError(f"{path} is damaged ({key} is {content}, not uint8 {shape}): delete it")
    return arrays
