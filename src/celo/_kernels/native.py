"""The native kernel: learned rules in C++ for the CPU, compiled on first use and called through XLA's FFI.

XLA's own loops pass over a tensor's statistics many times; the kernel does so three times. It runs on CPUs,
vmapped or not, and gives what the JAX form (`rule_network`) gives, to rounding. XLA's partitioner cannot
split it: sharded parameters need `kernel="xla"`.
"""

import importlib.metadata
import math
from collections.abc import Sequence
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
from celo._kernels.rule_network import RuleTensor, TensorUpdate
from celo._layout import result_types
from celo._types import Array

TOGETHER = 16  # tensors of one call: XLA takes longer to compile more calls, and one with more arguments
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


def tensor_updates(
    rule: RuleNetwork,
    theta: dict[str, Array] | Sequence[dict[str, Array]],
    tensors: Sequence[RuleTensor],
    layers: Sequence[int],
    min_rms: float | Array,
) -> list[TensorUpdate]:
    """`rule_network.tensor_update` of many tensors by one call; its derivatives are those of the JAX form.

    The kernel normalises inputs over all that it is given. Of a rule that normalises each matrix of a tensor
    by itself it is given the matrices, if the factored axes are their two; else the JAX form computes.

    Args:
      rule: which network.
      theta: its weights; or of each tensor its own, with the axes before them that count tensors.
      tensors: of any shapes with at least one element.
      layers: how many leading axes of each count tensors.
      min_rms: as in `rule_network.tensor_update`.
    """
    if isinstance(theta, dict):
        weights = [_packed(theta, min_rms)] * len(tensors)
    else:
        weights = [_packed(own, min_rms) for own in theta]
    results: dict[int, TensorUpdate] = {}
    for form, counts in (
        (_by_kernel, {n: _axes(rule, t[2].shape, layers[n]) for n, t in enumerate(tensors)}),
        (_by_xla, dict(enumerate(layers))),
    ):
        mine = [n for n, axes in counts.items() if axes is not None and n not in results]
        for begin in range(0, len(mine), TOGETHER):
            some = mine[begin : begin + TOGETHER]
            how = rule, tuple(counts[n] for n in some)
            found = form(how, [weights[n] for n in some], [tensors[n] for n in some])
            results |= zip(some, found, strict=True)
    return [results[n] for n in range(len(tensors))]


def _axes(rule: RuleNetwork, shape: tuple[int, ...], layers: int) -> int | None:
    """How many leading axes count tensors for the kernel; None if it has no form for this shape."""
    own = shape[layers:]
    if not rule.matrices_apart or len(own) <= 2:
        return layers
    return len(shape) - 2 if set(factored_axes(own) or ()) == {len(own) - 2, len(own) - 1} else None


def _packed(theta: dict[str, Array], min_rms: float | Array) -> Array:
    """A network's weights as the kernel reads them, [..., weights]; the least size is the last."""
    lead = theta["b0"].shape[:-1]
    least = jnp.broadcast_to(jnp.asarray(min_rms, jnp.float32), (*lead, 1))
    return jnp.concatenate([*(theta[name].reshape(*lead, -1) for name in RULE_WEIGHTS), least], axis=-1)


def _unpacked(rule: RuleNetwork, weights: Array) -> tuple[dict[str, Array], Array]:
    """What `_packed` made one of, without leading axes."""
    ends = np.cumsum([0, *(math.prod(rule.shapes[name]) for name in RULE_WEIGHTS)])
    theta = {
        name: weights[begin:end].reshape(rule.shapes[name])
        for name, begin, end in zip(RULE_WEIGHTS, ends, ends[1:], strict=False)
    }
    return theta, weights[-1]


Form = tuple[RuleNetwork, tuple[int, ...]]  # the rule, and how many leading axes of each tensor count tensors


@partial(jax.custom_jvp, nondiff_argnums=(0,))
def _by_kernel(form: Form, weights: list[Array], tensors: list[RuleTensor]) -> list[TensorUpdate]:
    rule, layers = form
    arguments: list[Array] = []
    results: list[tuple[Array, tuple[int, ...]]] = []  # as `result_types` takes them
    layouts: list[int] = []
    in_place: dict[int, int] = {}  # statistics
    for own, (stats, grad, param), axes in zip(weights, tensors, layers, strict=True):
        arrays = [*stats.momenta, stats.second_moment, *stats.row, *stats.col]
        begin = len(arguments) + 3, len(results) + 1
        in_place |= {begin[0] + i: begin[1] + i for i in range(len(arrays))}
        arguments += [own, grad.astype(jnp.float32), param.astype(jnp.float32), *arrays]
        results += [(x, x.shape) for x in (param, *arrays)]
        if rule.says_length:
            results.append((param, param.shape[:axes]))
        layouts += _layout(param.shape[axes:])
    if not tensors:
        return []
    call = jax.ffi.ffi_call(
        f"{rule.name}_rule",
        result_types(results, arguments),
        vmap_method="broadcast_all",
        input_output_aliases=in_place,
    )
    found = iter(call(*arguments, layouts=np.array(layouts, np.int64)))
    return [
        (
            next(found),
            jax.tree.map(lambda _: next(found), stats),
            next(found) if rule.says_length else None,
        )
        for stats, _, _ in tensors
    ]


def _layout(shape: tuple[int, ...]) -> list[int]:
    """Six numbers that tell the kernel how a tensor lies in memory; see `rule` in xla_calls.cc."""
    sizes, row_along = memory_layout(shape)
    return [*sizes, 1 + row_along] if len(sizes) > 1 else [1, 1, 1, *sizes, 1, 0]


def _by_xla(form: Form, weights: list[Array], tensors: list[RuleTensor]) -> list[TensorUpdate]:
    rule, layers = form

    def one(weights: Array, tensor: RuleTensor) -> TensorUpdate:
        theta, min_rms = _unpacked(rule, weights)
        return rule_network.tensor_update(rule, theta, *tensor, min_rms)

    results: list[TensorUpdate] = []
    for own, tensor, axes in zip(weights, tensors, layers, strict=True):
        function = one
        for _ in range(axes):
            function = jax.vmap(function, in_axes=(0 if own.ndim > 1 else None, 0))
        results.append(function(own, tensor))
    return results


@_by_kernel.defjvp
def _by_kernel_jvp(form: Form, primals: tuple[Any, ...], tangents: tuple[Any, ...]) -> tuple[Any, Any]:
    return jax.jvp(partial(_by_xla, form), primals, tangents)
