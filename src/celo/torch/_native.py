"""The native kernels for PyTorch on the CPU: the rule and orthogonalised steps in C++, called by address.

They are the sources that JAX calls through XLA, compiled on first use with no header but our own. For
`torch.compile` each is an operator of its own, which it does not look into.
"""

import ctypes
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

import celo
from celo import _compile
from celo._definitions import memory_layout
from celo._errors import CeloError

KERNELS = ("auto", "native", "eager")
_FOLDER = Path(celo.__file__).parent / "_kernels"
SOURCES = tuple(_FOLDER / f"{name}.cc" for name in ("rule", "orthogonal", "plain_calls"))
HEADERS = tuple(_FOLDER / f"{name}.h" for name in ("lanes", "orthogonal", "parallel", "rule"))


@cache
def library() -> ctypes.CDLL:
    """The compiled kernels; some seconds on a machine that has not compiled them before.

    Raises:
      CeloError: without a C++ compiler, or if compiling or loading fails.
    """
    path = _compile.build(SOURCES, HEADERS, remedy="use kernel='eager'")
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:  # a folder from which nothing may be executed, for one
        raise CeloError(f"the native kernel cannot be loaded ({error}); use kernel='eager'") from error


@cache
def available() -> bool:
    """Whether there is a compiler, or kernels compiled before."""
    try:
        library()
    except CeloError:
        return False
    return True


def usable(kernel: str, device: torch.device) -> bool:
    """Whether tensors of a device are computed by the native kernels.

    Raises:
      CeloError: for "native" where it does not work.
    """
    if kernel == "native":
        if device.type != "cpu":
            raise CeloError(
                f"the native kernel runs on CPUs, and parameters are on {device}; use kernel='auto'"
            )
        library()
        return True
    return kernel == "auto" and device.type == "cpu" and available()


def pack(theta: dict[str, Tensor], min_rms: float | Tensor) -> Tensor:
    """The rule's weights and the least size of a tensor, as the kernel reads them."""
    weights = [theta[name].reshape(-1) for name in ("w0", "b0", "w1", "b1", "w2", "b2")]
    return torch.cat([*weights, torch.as_tensor(min_rms, dtype=torch.float32).reshape(1)])


@torch.library.custom_op("celo::rule_steps", mutates_args=("momenta", "second_moment", "row", "col"))
def rule_steps(
    theta: Tensor,
    grads: Tensor,
    params: Tensor,
    momenta: Tensor,
    second_moment: Tensor,
    row: Tensor,
    col: Tensor,
) -> Tensor:
    """`_rule.steps` by the kernel: theta as `pack` gives it; gradients raw; all float32 and contiguous."""
    update = torch.empty_like(grads)
    dims, row_along = memory_layout(tuple(grads.shape[1:]))
    arrays = (theta, grads, params, momenta, second_moment, row, col, update)
    library().celo_rule_steps(
        ctypes.c_int64(torch.get_num_threads()),
        (ctypes.c_int64 * len(dims))(*dims),
        ctypes.c_int64(len(dims)),
        ctypes.c_bool(row_along),
        ctypes.c_int64(grads.shape[0]),
        *(ctypes.c_void_p(x.data_ptr()) for x in arrays),
    )
    return update


@rule_steps.register_fake
def _(theta, grads, params, momenta, second_moment, row, col):
    return torch.empty_like(grads)


@torch.library.custom_op("celo::orthogonalize", mutates_args=("matrices",))
def orthogonalize(matrices: list[Tensor]) -> None:
    """Each of [n, rows, columns], float32 and contiguous, made its polar factors, as long as they were."""
    pointers, rows, columns = [], [], []
    for x in matrices:
        for i in range(x.shape[0]):
            pointers.append(x.data_ptr() + 4 * i * x.shape[1] * x.shape[2])
            rows.append(x.shape[1])
            columns.append(x.shape[2])
    count = len(pointers)
    lengths = torch.empty(count)
    library().celo_orthogonalize_matrices(
        ctypes.c_int64(torch.get_num_threads()),
        ctypes.c_int64(count),
        (ctypes.c_void_p * count)(*pointers),
        (ctypes.c_int64 * count)(*rows),
        (ctypes.c_int64 * count)(*columns),
        ctypes.c_void_p(lengths.data_ptr()),
    )
    torch._foreach_mul_(
        matrices, [part.view(-1, 1, 1) for part in lengths.split([x.shape[0] for x in matrices])]
    )
