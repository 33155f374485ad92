"""The native kernel: learned rules in C++ for the CPU, compiled on first use and called through XLA's FFI.

XLA's own loops pass over a tensor's statistics many times; the kernel does so three times. It runs on CPUs,
vmapped or not, and gives what the JAX form (`rule_network`) gives, to rounding. XLA's partitioner cannot
split it: sharded parameters need `kernel="xla"`.
"""

import importlib.metadata
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from celo import _compile
from celo._definitions import RULE_WEIGHTS, RuleNetwork, factored_axes, memory_layout
from celo._errors import CeloError, unknown_name
from celo._kernels import rule_network
from celo._kernels.statistics import TensorStats
from celo._layout import result_types
from celo._types import Array

KERNELS = ("auto", "native", "xla")
TARGETS = ("celo_rule", "celo2_rule", "celo_orthogonalize")
_FOLDER = Path(__file__).parent
SOURCES = tuple(_FOLDER / f"{name}.cc" for name in ("rule", "orthogonal", "xla_calls"))
HEADERS = tuple(_FOLDER / f"{name}.h" for name in ("lanes", "orthogonal", "parallel", "rule"))


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
    """Whether the native kernel works here: a CPU and a C++ compiler; says, once, why it does not in spite of
    them."""
    return jax.default_backend() == "cpu" and _compile.works(load, instead="XLA")


@cache
def load() -> None:
    """Make the kernel known to XLA; compile it (some seconds) if this machine has not done so before.

    Raises:
      CeloError: without a C++ compiler, or if compiling or loading fails.
    """
    library = _compile.load(
        SOURCES,
        HEADERS,
        TARGETS,
        remedy="use kernel='xla'",
        include=jax.ffi.include_dir(),
        version=importlib.metadata.version("jaxlib"),
    )
    for target in TARGETS:
        jax.ffi.register_ffi_target(target, jax.ffi.pycapsule(getattr(library, target)), platform="cpu")


def tensor_update(
    rule: RuleNetwork,
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
    min_rms: float | Array,
) -> tuple[Array, TensorStats]:
    """`rule_network.tensor_update` by the kernel; its derivatives are those of the JAX form.

    The kernel normalises inputs over all that it is given. Of a rule that normalises each matrix of a tensor
    by itself it is given the matrices, if the factored axes are their two; else the JAX form computes.
    """
    leading = param.ndim - 2 if rule.matrices_apart else 0
    if leading <= 0:
        return _by_kernel(rule, theta, stats, grad, param, min_rms)
    if set(factored_axes(param.shape) or ()) != {param.ndim - 2, param.ndim - 1}:
        return rule_network.tensor_update(rule, theta, stats, grad, param, min_rms)
    one = partial(_by_kernel, rule, theta)
    for _ in range(leading):
        one = jax.vmap(one, in_axes=(0, 0, 0, None))
    return one(stats, grad, param, min_rms)


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_kernel(
    rule: RuleNetwork,
    theta: dict[str, Array],
    stats: TensorStats,
    grad: Array,
    param: Array,
    min_rms: float | Array,
) -> tuple[Array, TensorStats]:
    momenta, factors = len(stats.momenta), len(stats.row)
    arrays = [*stats.momenta, stats.second_moment, *stats.row, *stats.col]
    dims, row_along = memory_layout(param.shape)
    call = jax.ffi.ffi_call(
        f"{rule.name}_rule",
        result_types([(x, x.shape) for x in (param, *arrays)], [*theta.values(), grad, param, *arrays]),
        vmap_method="broadcast_all",
        input_output_aliases={3 + i: 1 + i for i in range(len(arrays))},  # statistics are updated in place
    )
    least = jnp.asarray(min_rms, jnp.float32).reshape(1)  # of no consequence if the rule says no length
    packed = jnp.concatenate([*(theta[name].reshape(-1) for name in RULE_WEIGHTS), least])
    update, *new = call(
        packed,
        grad.astype(jnp.float32),
        param.astype(jnp.float32),
        *arrays,
        dims=np.array(dims, np.int64),
        row_along=row_along,
    )
    row = momenta + 1
    return update, TensorStats(
        momenta=tuple(new[:momenta]),
        second_moment=new[momenta],
        row=tuple(new[row : row + factors]),
        col=tuple(new[row + factors :]),
    )


@_by_kernel.defjvp
def _by_kernel_jvp(rule: RuleNetwork, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return jax.jvp(partial(rule_network.tensor_update, rule), primals, tangents)
