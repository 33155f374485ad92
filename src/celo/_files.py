"""Files and folders: read with a clear error, written whole or not at all, cached where the platform does.

This is the one place of the library that writes a file: weights, checkpoints, data sets, evaluation records,
reports and compiled kernels all go through it.
"""

import hashlib
import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celo._errors import CeloError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None


def platform_cache() -> Path:
    """The user's cache folder, where the platform keeps it; not created."""
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def make_folder(folder: Path, remedy: str = "choose another folder") -> None:
    """Create a folder and its parents; one that exists is fine.

    Raises:
      CeloError: the system refuses, or there is a file of that name; `remedy` ends the message.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(f"{folder}: cannot be created ({error.strerror}); {remedy}") from error


@contextmanager
def held(folder: Path, remedy: str) -> Iterator[None]:
    """Keeps other processes out of a folder as long as the block runs; the lock dies with the process.

    Where the system knows no such locks (Windows, some network folders) there is none.

    Raises:
      CeloError: if another process holds the folder; `remedy` ends the message.
    """
    if fcntl is None:
        yield
        return
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise CeloError(f"{folder}: cannot be opened ({error.strerror}); check its permissions") from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CeloError(f"{folder}: another process is at work in it; {remedy}") from error
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(descriptor)


def read_file(path: str | os.PathLike[str], max_bytes: int | None = None) -> bytes:
    """The content of a file.

    Args:
      path: which.
      max_bytes: refuse a larger one, so that a wrong path cannot fill the memory.

    Raises:
      CeloError: it is missing, a folder, unreadable or too large.
    """
    source = os.fspath(path)
    try:
        with open(source, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if max_bytes is not None and size > max_bytes:
                raise CeloError(
                    f"{source}: {size:,} bytes, more than the {max_bytes:,} allowed; check the path"
                )
            return file.read()
    except FileNotFoundError as error:
        raise CeloError(f"{source}: no such file; check the path") from error
    except IsADirectoryError as error:
        raise CeloError(f"{source}: is a folder; name the file inside it") from error
    except OSError as error:
        raise CeloError(f"{source}: cannot be read ({error.strerror}); check the file") from error


def write_file(path: str | os.PathLike[str], data: bytes) -> str:
    """Write `data` to `path` and return its SHA-256; on failure an older file stays as it was.

    Raises:
      CeloError: the path is a folder, its folder is missing, or the system refuses the write.
    """
    target = Path(path)
    if os.path.isdir(target):
        raise CeloError(f"{target}: is a folder; name the file to write inside it")
    if not os.path.isdir(target.parent):
        raise CeloError(f"{target}: the folder {target.parent} does not exist; create it first")
    try:
        with replacing(target) as draft, open(draft, "xb") as file:
            # Opened by name, not with mkstemp, so that the file gets the user's usual permissions.
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CeloError(
            f"{target}: cannot be written ({error.strerror}); check the folder's permissions and free space"
        ) from error
    return hashlib.sha256(data).hexdigest()


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A name for a draft beside `target`, which takes the target's place when the block succeeds.

    For files that another program writes, such as a compiler; `write_file` is for bytes.
    """
    draft = target.parent / f".celo-{secrets.token_hex(8)}{target.suffix}.tmp"
    try:
        yield draft
        os.replace(draft, target)
    finally:
        draft.unlink(missing_ok=True)
