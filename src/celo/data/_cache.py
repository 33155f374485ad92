"""Where data sets are kept, and how a cache file is written whole or not at all."""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from celo._errors import CeloError
from celo._files import platform_cache

ENVIRONMENT_VARIABLE = "CELO_DATA_DIR"


class DamagedCacheError(CeloError):
    """A cache file that is not whole or not what its name says; it can be deleted and made again."""


def data_dir() -> Path:
    """The folder of cached data sets, made if need be: `CELO_DATA_DIR` or the platform's cache folder.

    Raises:
      CeloError: it is a file, or can't be made or written to.
    """
    chosen = os.environ.get(ENVIRONMENT_VARIABLE)
    folder = Path(chosen).expanduser() if chosen else platform_cache() / "celo"
    remedy = f"set {ENVIRONMENT_VARIABLE} to a folder that can be written to"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"data folder {folder} can't be made ({error.strerror}): {remedy}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise CeloError(f"data folder {folder} is not writable: {remedy}")
    return folder.absolute()


def raw_dir(name: str) -> Path:
    """Where a user may put a set's official files; not made."""
    return data_dir() / "raw" / name


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write an .npz so that `path` is never there in part: a temporary file beside it takes its place.

    Raises:
      CeloError: the disk is full or the folder not writable.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise CeloError(
            f"can't write {path} ({error.strerror}): make room or set {ENVIRONMENT_VARIABLE}"
        ) from error
    finally:
        temporary.unlink(missing_ok=True)


def read_arrays(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Read a cache file in full, which also compares the checksums that an .npz keeps of every array.

    Args:
      path: an .npz that `write_arrays` made.
      shapes: the uint8 arrays it must hold.

    Raises:
      DamagedCacheError: it is cut short, altered, or holds other arrays.
    """
    try:
        # Opened here, for np.load leaves a file that is no .npz open.
        with path.open("rb") as file, np.load(file) as content:
            arrays = {key: content[key] for key in shapes}
    except Exception as error:  # a bad byte may show as any of a dozen types of errors
        raise DamagedCacheError(f"{path} is damaged ({error}): delete it") from error
    for key, shape in shapes.items():
        if arrays[key].shape != shape or arrays[key].dtype != np.uint8:
            found = f"{arrays[key].dtype} {arrays[key].shape}"
            raise DamagedCacheError(f"{path} is damaged ({key} is {found}, not uint8 {shape}): delete it")
    return arrays
