"""The native kernel: C++ for the CPU, compiled on first use and called from XLA through its FFI.

It is optional. What it computes is what the JAX code computes, to rounding; it is asked for by name
(`kernel="native"`), never used behind the user's back.
"""

import ctypes
import hashlib
import importlib.metadata
import os
import platform
import secrets
import shutil
import subprocess
from functools import cache
from pathlib import Path

import jax

from celo._errors import CeloError
from celo._files import platform_cache

KERNELS = ("xla", "native")
TARGETS = ("celo_rule",)
SOURCE = Path(__file__).with_suffix(".cc")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")


def available() -> bool:
    """Whether this machine has what compiling the kernel takes."""
    return _compiler() is not None


def _compiler() -> str | None:
    return next(filter(None, map(shutil.which, COMPILERS)), None)


@cache
def load() -> None:
    """Makes the kernel known to XLA; compiles it (some seconds) if this machine has not done so before.

    Raises:
      CeloError: without a C++ compiler, or if it fails.
    """
    library = ctypes.CDLL(str(build()))
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")


def build() -> Path:
    """The compiled kernel in the user's cache folder, made anew when source, JAX, flags or CPU change.

    Raises:
      CeloError: as `load`.
    """
    compiler = _compiler()
    if compiler is None:
        raise CeloError(
            f"the native kernel needs a C++ compiler ({', '.join(COMPILERS)}) and none was found; "
            "install one, or use kernel='xla'"
        )
    folder = platform_cache() / "celo" / "native"
    library = folder / f"{_fingerprint(compiler)}.so"
    if library.exists():
        return library
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CeloError(
            f"the native kernel's folder {folder} can't be made ({error.strerror}); use kernel='xla'"
        ) from error
    partial = folder / f".{secrets.token_hex(8)}.so"
    command = [compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), str(SOURCE), "-o", str(partial)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
        os.replace(partial, library)  # never there in part, whoever else is compiling
    except subprocess.CalledProcessError as error:
        raise CeloError(
            f"the native kernel did not compile; use kernel='xla', or see why: {' '.join(command)}\n"
            f"{error.stderr[-2000:]}"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return library


def _fingerprint(compiler: str) -> str:
    """Differs wherever a compiled kernel could not be shared: home folders are seen from many machines."""
    cpu = Path("/proc/cpuinfo")
    flags = (
        next((line for line in cpu.read_text().splitlines() if "flags" in line), "") if cpu.exists() else ""
    )
    facts = (
        SOURCE.read_text(),
        *FLAGS,
        compiler,
        importlib.metadata.version("jaxlib"),
        platform.platform(),
        flags,
    )
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20]
