"""C++ of the library, compiled on first use into a shared library in the user's cache folder."""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from celo._errors import CeloError
from celo._files import make_folder, platform_cache, replacing, write_file

COMPILERS = ("c++", "g++", "clang++")
FLAGS = (
    *("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math"),
    *("-shared", "-fPIC", "-pthread"),
)
_CPU_FACTS = ("flags", "Features", "CPU part", "CPU implementer", "isa")  # of x86, ARM and RISC-V


def find_compiler() -> str | None:
    """The path of a C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def load(
    sources: Sequence[Path],
    headers: Sequence[Path],
    functions: Sequence[str],
    *,
    remedy: str,
    include: str | None = None,
    version: str = "",
) -> ctypes.CDLL:
    """The library of these sources, in this process; one that cannot be loaded is compiled again, once.

    Args:
      sources: as in `build`; so are the others.
      headers: what it includes of ours.
      functions: what must be in it.
      remedy: what to do without it.
      include: a folder of headers of others.
      version: of those headers.

    Raises:
      CeloError: as `build`, or if the system loads nothing from the cache folder.
    """

    compiled = partial(build, sources, headers, remedy=remedy, include=include, version=version)
    path = compiled()
    _check_executable(path.parent, remedy)
    try:
        return _opened(path, functions)
    except (OSError, AttributeError):  # of another machine, or not all of it
        path.unlink(missing_ok=True)
    try:
        return _opened(compiled(), functions)
    except (OSError, AttributeError) as error:
        raise CeloError(f"the native kernel cannot be loaded ({error}); {remedy}") from error


def _opened(path: Path, functions: Sequence[str]) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    for name in functions:
        getattr(library, name)
    return library


def works(load: Callable[[], object], *, instead: str) -> bool:
    """Whether a kernel loads; warns if it does not though there is a compiler.

    Args:
      load: raises CeloError if it does not.
      instead: what computes then, for the warning.
    """
    if find_compiler() is None:  # as on many machines; nothing is wrong
        return False
    try:
        load()
    except CeloError as error:
        warnings.warn(f"kernel='auto' computes by {instead}, slower: {error}", RuntimeWarning, stacklevel=2)
        return False
    return True


def _check_executable(folder: Path, remedy: str) -> None:
    """CeloError for a folder of a file system that is mounted so that nothing in it may be executed."""
    no_execution = getattr(os, "ST_NOEXEC", 0)  # Linux's
    if no_execution and os.statvfs(folder).f_flag & no_execution:
        raise CeloError(
            f"{folder}: nothing there may be executed (it is mounted noexec), so that the native kernel "
            f"cannot be loaded; set XDG_CACHE_HOME to another folder, or {remedy}"
        )


def build(
    sources: Sequence[Path],
    headers: Sequence[Path],
    *,
    remedy: str,
    include: str | None = None,
    version: str = "",
) -> Path:
    """A shared library of these sources, made anew when they, compiler, flags or CPU change.

    Args:
      sources: what is compiled.
      headers: what it includes of ours.
      remedy: what to do without it, for errors: "use kernel='xla'".
      include: a folder of headers of others.
      version: of those headers; another version is compiled anew.

    Raises:
      CeloError: without a C++ compiler, or if compiling fails.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CeloError(
            f"the native kernel needs a C++ compiler ({', '.join(COMPILERS)}) and there is none; "
            f"install one, or {remedy}"
        )
    fingerprint = _fingerprint(compiler, [*sources, *headers], version)
    library = platform_cache() / "celo" / "native" / f"{fingerprint}.so"
    checksum = library.with_suffix(".sha256")
    try:
        if checksum.read_bytes() == _sha256(library).encode():
            return library  # a damaged one would end the process
    except OSError:  # not there, or not ours to read
        pass
    make_folder(library.parent, remedy)
    included = [] if include is None else ["-isystem", include]
    command = [compiler, *FLAGS, *included, *map(str, sources), "-o"]
    try:
        with replacing(library) as draft:  # never there in part, whoever else is compiling
            subprocess.run([*command, str(draft)], check=True, capture_output=True, text=True)
        write_file(checksum, _sha256(library).encode())
    except subprocess.CalledProcessError as error:
        raise CeloError(
            f"the native kernel did not compile; {remedy}, or see why: {' '.join(command)} FILE\n"
            f"{error.stderr[-2000:]}"
        ) from error
    except OSError as error:
        raise CeloError(f"{library}: cannot be written ({error.strerror}); {remedy}") from error
    return library


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fingerprint(compiler: str, files: Sequence[Path], version: str) -> str:
    """Differs wherever a compiled kernel could not be shared: home folders are seen from many machines."""
    cpu = Path("/proc/cpuinfo")
    flags = (
        "".join(line for line in cpu.read_text().splitlines()[:64] if line.startswith(_CPU_FACTS))
        if cpu.exists()
        else ""
    )
    facts = (*(file.read_text() for file in files), *FLAGS, compiler, version, platform.platform(), flags)
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20]
