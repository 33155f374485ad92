"""The native kernel: Celo's rule in C++ for the CPU, compiled on first use and called through XLA's FFI.

XLA's own loops pass over a tensor's statistics many times; the kernel does so three times. It runs on CPUs,
vmapped or not, and gives what the JAX form (`rule_network`) gives, to rounding. XLA's partitioner cannot
split it: sharded parameters need `kernel="xla"`.
"""

import ctypes
import hashlib
import importlib.metadata
import math
import platform
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo._definitions import factored_axes
from celo._errors import CeloError, unknown_name
from celo._files import make_folder, platform_cache, replacing, write_file
from celo._kernels import rule_network
from celo._kernels.statistics import TensorStats
from celo._types import Array

KERNELS = ("auto", "native", "xla")
TARGETS = ("celo_rule", "celo_orthogonalize")
_FOLDER = Path(__file__).parent
SOURCES = (_FOLDER / "native.cc", _FOLDER / "orthogonal.cc")
HEADERS = (_FOLDER / "lanes.h", _FOLDER / "parallel.h")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-std=c++17", "-O3", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC")
_CPU_FACTS = ("flags", "Features", "CPU part", "CPU implementer", "isa")  # of x86, ARM and RISC-V
WEIGHTS = ("w0", "b0", "w1", "b1", "w2", "b2")  # in the order the kernel reads them; then the least size


def check_name(kernel: str) -> None:
    """CeloError for the name of no kernel."""
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)


def check_kernel(kernel: str) -> None:
    """Refuse a kernel that does not exist, or "native" where it does not work.

    Raises:
      CeloError: for an unknown name; for "native" on another device than a CPU, and as `load`.
    """
    check_name(kernel)
    if kernel == "native":
        if jax.default_backend() != "cpu":
            backend = jax.default_backend()
            raise CeloError(f"the native kernel runs on CPUs, JAX computes on {backend}; use kernel='xla'")
        load()


def check_whole(param: Array, path: str) -> None:
    """CeloError for a tensor that is split over devices, which the kernel would gather."""
    sharding = jax.typeof(param).sharding
    if sharding.mesh.size > 1 and any(axis is not None for axis in sharding.spec):
        raise CeloError(
            f"the native kernel takes whole tensors, and params{path} is split over devices by "
            f"{sharding.spec}; use kernel='xla' or 'auto'"
        )


def resolve(kernel: str) -> str:
    """The kernel that computes: "native" or "xla".

    "auto" is the native one on a CPU with a C++ compiler, where arrays lie on one device; else XLA's. Asking
    starts JAX's backend.

    Raises:
      CeloError: as `check_kernel`.
    """
    check_kernel(kernel)
    if kernel != "auto":
        return kernel
    # On several devices arrays may be split, which a traced function cannot see.
    return "native" if jax.device_count() == 1 and available() else "xla"


@cache
def available() -> bool:
    """Whether the native kernel works here: a CPU, and a compiler or a kernel compiled before."""
    if jax.default_backend() != "cpu":
        return False
    try:
        load()
    except CeloError:
        return False
    return True


@cache
def load() -> None:
    """Make the kernel known to XLA; compile it (some seconds) if this machine has not done so before.

    Raises:
      CeloError: without a C++ compiler, or if compiling or loading fails.
    """
    try:
        library = ctypes.CDLL(str(build()))
    except OSError as error:  # a folder from which nothing may be executed, for one
        raise CeloError(f"the native kernel cannot be loaded ({error}); use kernel='xla'") from error
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")


def find_compiler() -> str | None:
    """The path of a C++ compiler, if there is one."""
    return next(filter(None, map(shutil.which, COMPILERS)), None)


def build() -> Path:
    """The compiled kernel in the user's cache folder, made anew when source, JAX, flags or CPU change.

    Raises:
      CeloError: as `load`.
    """
    compiler = find_compiler()
    if compiler is None:
        raise CeloError(
            f"the native kernel needs a C++ compiler ({', '.join(COMPILERS)}) and there is none; "
            "install one, or use kernel='xla'"
        )
    library = platform_cache() / "celo" / "native" / f"{_fingerprint(compiler)}.so"
    checksum = library.with_suffix(".sha256")
    if library.exists() and checksum.exists() and checksum.read_text() == _sha256(library):
        return library  # a damaged one would end the process
    make_folder(library.parent, "use kernel='xla'")
    command = [compiler, *FLAGS, "-isystem", jax.ffi.include_dir(), *map(str, SOURCES), "-o"]
    try:
        with replacing(library) as draft:  # never there in part, whoever else is compiling
            subprocess.run([*command, str(draft)], check=True, capture_output=True, text=True)
        write_file(checksum, _sha256(library).encode())
    except subprocess.CalledProcessError as error:
        raise CeloError(
            f"the native kernel did not compile; use kernel='xla', or see why: {' '.join(command)} FILE\n"
            f"{error.stderr[-2000:]}"
        ) from error
    except OSError as error:
        raise CeloError(f"{library}: cannot be written ({error.strerror}); use kernel='xla'") from error
    return library


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _fingerprint(compiler: str) -> str:
    """Differs wherever a compiled kernel could not be shared: home folders are seen from many machines."""
    cpu = Path("/proc/cpuinfo")
    flags = (
        "".join(line for line in cpu.read_text().splitlines()[:64] if line.startswith(_CPU_FACTS))
        if cpu.exists()
        else ""
    )
    facts = (
        *(source.read_text() for source in (*SOURCES, *HEADERS)),
        *FLAGS,
        compiler,
        importlib.metadata.version("jaxlib"),
        platform.platform(),
        flags,
    )
    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:20]


@jax.custom_jvp
def tensor_update(
    theta: dict[str, Array], stats: TensorStats, grad: Array, param: Array, min_rms: float | Array
) -> tuple[Array, TensorStats]:
    """`rule_network.tensor_update` by the kernel; its derivatives are those of the JAX form."""
    momenta, factors = len(stats.momenta), len(stats.row)
    arrays = [*stats.momenta, stats.second_moment, *stats.row, *stats.col]
    dims, row_along = _memory(param.shape)
    like = [jax.ShapeDtypeStruct(x.shape, jnp.float32) for x in (param, *arrays)]
    call = jax.ffi.ffi_call(
        "celo_rule",
        like,
        vmap_method="broadcast_all",
        input_output_aliases={3 + i: 1 + i for i in range(len(arrays))},  # statistics are updated in place
    )
    least = jnp.asarray(min_rms, jnp.float32).reshape(1)
    packed = jnp.concatenate([*(theta[name].reshape(-1) for name in WEIGHTS), least])
    update, *new = call(
        packed, grad.astype(jnp.float32), param.astype(jnp.float32), *arrays, dims=dims, row_along=row_along
    )
    row = momenta + 1
    return update, TensorStats(
        momenta=tuple(new[:momenta]),
        second_moment=new[momenta],
        row=tuple(new[row : row + factors]),
        col=tuple(new[row + factors :]),
    )


@tensor_update.defjvp
def _tensor_update_jvp(primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return jax.jvp(rule_network.tensor_update, primals, tangents)


def _memory(shape: tuple[int, ...]) -> tuple[np.ndarray, bool]:
    """(sizes, row_along): how the factored axes lie in memory.

    A tensor with two or more axes is [outer, a, middle, b, inner] with a and b its factored axes; others
    are one line, [size]. `row_along` says that the row moment is the one averaged over b.
    """
    axes = factored_axes(shape)
    if axes is None:
        return np.array([math.prod(shape)], np.int64), False
    a, b = sorted(axes)
    between = [shape[:a], shape[a : a + 1], shape[a + 1 : b], shape[b : b + 1], shape[b + 1 :]]
    return np.array([math.prod(sizes) for sizes in between], np.int64), axes[0] == b
