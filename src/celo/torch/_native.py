"""The native kernels for PyTorch on the CPU: rules and orthogonalised steps in C++, called by address.

They are the sources that JAX calls through XLA, compiled on first use with no header but our own. For
`torch.compile` each is an operator of its own, which it does not look into.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from celo import _compile
from celo._definitions import MUON, POLAR, PolarIteration, RuleNetwork, factored_axes, memory_layout
from celo.torch._rule import Statistics, are_apart

FUNCTIONS = ("celo_rule_steps", "celo2_rule_steps", "celo_orthogonalize_matrices")
_FOLDER = Path(__file__).parents[1] / "_kernels"
SOURCES = tuple(_FOLDER / f"{name}.cc" for name in ("rule", "orthogonal", "plain_calls"))
HEADERS = tuple(_FOLDER / f"{name}.h" for name in ("lanes", "orthogonal", "parallel", "rule"))


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels; some seconds on a machine that has not compiled them before.

    Raises:
      CeloError: without a C++ compiler, or if compiling or loading fails.
    """
    return _compile.load(SOURCES, HEADERS, FUNCTIONS, remedy="use kernel='eager'")


@cache
def available() -> bool:
    """Whether there is a compiler; says, once, why the kernels do not work in spite of it."""
    return _compile.works(library, instead="PyTorch's own operations")


def has_form(rule: RuleNetwork, shape: tuple[int, ...]) -> bool:
    """Whether the kernel computes a tensor: one whose matrices are apart, if those are its factored axes."""
    return not are_apart(rule, shape) or set(factored_axes(shape) or ()) == {0, 1}


def _rule_steps(
    name: str,
    network: Tensor,
    grads: Tensor,
    params: Tensor,
    momenta: Tensor,
    second_moment: Tensor,
    row: Tensor,
    col: Tensor,
) -> Tensor:
    update = torch.empty_like(grads)
    dims, row_along = memory_layout(tuple(grads.shape[1:]))
    arrays = (network, grads, params, momenta, second_moment, row, col, update)
    getattr(library(), f"{name}_rule_steps")(
        ctypes.c_int64(torch.get_num_threads()),
        (ctypes.c_int64 * len(dims))(*dims),
        ctypes.c_int64(len(dims)),
        ctypes.c_bool(row_along),
        ctypes.c_int64(grads.shape[0]),
        ctypes.c_bool(network.dim() == 2),
        *(ctypes.c_void_p(x.data_ptr()) for x in arrays),
    )
    return update


def _orthogonalize(matrices: list[Tensor], gains: Tensor | None, muon: bool) -> None:
    pointers, rows, columns = [], [], []
    for x in matrices:
        for i in range(x.shape[0]):
            pointers.append(x.data_ptr() + 4 * i * x.shape[1] * x.shape[2])
            rows.append(x.shape[1])
            columns.append(x.shape[2])
    count = len(pointers)
    lengths = torch.empty(count, dtype=torch.float32)
    library().celo_orthogonalize_matrices(
        ctypes.c_int64(torch.get_num_threads()),
        ctypes.c_int64(count),
        (ctypes.c_void_p * count)(*pointers),
        (ctypes.c_int64 * count)(*rows),
        (ctypes.c_int64 * count)(*columns),
        ctypes.c_void_p(lengths.data_ptr()),
        ctypes.c_bool(muon),
    )
    if gains is None:
        return
    lengths *= gains
    for x, part in zip(matrices, lengths.split([x.shape[0] for x in matrices]), strict=True):
        x.mul_(part.view(-1, 1, 1))


# What torch.compile sees. Called directly these cost more than a small tensor's step.
_rule_steps_op = torch.library.custom_op(
    "celo::rule_steps", _rule_steps, mutates_args=("momenta", "second_moment", "row", "col")
)
_rule_steps_op.register_fake(lambda name, network, grads, *others: torch.empty_like(grads))
_orthogonalize_op = torch.library.custom_op("celo::orthogonalize", _orthogonalize, mutates_args=("matrices",))


def rule_steps(
    rule: RuleNetwork, network: Tensor, stats: Statistics, grads: Tensor, params: Tensor
) -> Tensor:
    """`_rule.steps` of raw gradients by the kernel; `stats` are updated in place.

    Args:
      rule: which network.
      network: as `_rule.pack` gives it, of all tensors [W] or of each [n, W].
      stats: of n tensors of one shape.
      grads: [n, *S]; NaN counts as zero.
      params: [n, *S].

    All are float32 and contiguous.
    """
    call = _rule_steps_op if torch.compiler.is_compiling() else _rule_steps
    return call(rule.name, network, grads, params, *stats)


def orthogonalize(matrices: list[Tensor], gains: Tensor | None, iteration: PolarIteration = POLAR) -> None:
    """Each of [n, rows, columns], float32 and contiguous, made its polar factors.

    Args:
      matrices: any number.
      gains: one for each matrix, in their order: how many times as long as the matrix its factor is made.
        None: factors are left as the polynomials make them.
      iteration: which polynomials, `POLAR` or `MUON`.
    """
    call = _orthogonalize_op if torch.compiler.is_compiling() else _orthogonalize
    call(matrices, gains, iteration == MUON)
