"""Which kernel computes a step: C++ on CPUs, Triton on GPUs, PyTorch's own operations ("eager") anywhere."""

import importlib.util
from functools import cache

import torch

from celo import _compile
from celo._errors import CeloError, unknown_name
from celo.torch import _native

KERNELS = ("auto", "native", "triton", "eager")
_OLDEST_GPU = 8  # the major compute capability from which on Triton supports GPUs


def check(kernel: str) -> None:
    """Refuses a kernel that does not exist, "native" without a compiler, and "triton" without its package.

    Raises:
      CeloError: as it says.
    """
    if kernel not in KERNELS:
        raise unknown_name("kernel", kernel, KERNELS)
    if kernel == "native":
        _native.library()
    if kernel == "triton" and not _has_triton():
        raise CeloError("kernel='triton' needs the package triton, which is not installed; use kernel='auto'")


def chosen(kernel: str, device: torch.device) -> str:
    """What computes tensors of a device: "native", "triton" or "eager".

    Raises:
      CeloError: if it was asked for by name, and does not run on that device.
    """
    if kernel == "native" and device.type != "cpu":
        raise CeloError(f"the native kernel runs on CPUs, and parameters are on {device}; use kernel='auto'")
    if kernel == "triton" and device.type != "cuda" and not _interpreted():
        raise CeloError(f"the Triton kernel runs on GPUs, and parameters are on {device}; use kernel='auto'")
    if kernel != "auto":
        return kernel
    if device.type == "cpu" and _native.available():
        return "native"
    return "triton" if device.type == "cuda" and _triton_works(device) else "eager"


def _has_triton() -> bool:
    return importlib.util.find_spec("triton") is not None


@cache
def _triton_works(device: torch.device) -> bool:
    """Whether its package is there, what it compiles its calls with, and a GPU that it supports."""
    there = _has_triton() and _compile.find_compiler() is not None
    return there and torch.cuda.get_device_capability(device)[0] >= _OLDEST_GPU


def _interpreted() -> bool:
    from celo.torch import _triton

    return _triton.INTERPRETED
