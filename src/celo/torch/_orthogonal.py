"""Orthogonalised steps in PyTorch: `celo._kernels.orthogonal` has the mathematics.

On a GPU products are in half precision, whatever `torch.set_float32_matmul_precision` says: in single
precision they take two to four times as long (results/LOG.md). A Gram matrix doubles the orders of
magnitude, so what half precision loses of it is made good: after some polynomials it is formed anew.
"""

import math

import torch
from torch import Tensor

from celo._definitions import LARGEST, POLAR, SMALLEST, PolarIteration

_BEFORE_ANEW = 2  # polynomials, in half precision


def polar_factor(x: Tensor) -> Tensor:
    """Each matrix's polar factor, as long as the matrix was.

    Args:
      x: [..., rows, columns], float32. A matrix of zeros stays as it is.
    """
    of_x, length = _factor(x, POLAR)
    return of_x * length


def factor(x: Tensor, iteration: PolarIteration = POLAR) -> Tensor:
    """Each matrix's polar factor, singular values about 1; by `MUON` as Muon has it. `x` as above."""
    return _factor(x, iteration)[0]


def _factor(x: Tensor, iteration: PolarIteration) -> tuple[Tensor, Tensor]:
    """(factor, length [..., 1, 1]): the factor times the length is as long as `x`."""
    largest = x.abs().amax(dim=(-2, -1), keepdim=True)
    usable = (largest >= SMALLEST) & (largest <= LARGEST)
    scaled = x / torch.where(usable, largest, 1.0)
    tall = x.shape[-2] > x.shape[-1]
    stack = (scaled.mT if tall else scaled).reshape(-1, min(x.shape[-2:]), max(x.shape[-2:]))
    found = _brought_near(stack, iteration, half=x.device.type != "cpu")
    found = (found.mT if tall else found).reshape(x.shape)
    length = _norm(scaled) / torch.where(usable, _norm(found), 1.0) * largest
    return torch.where(usable, found, x), torch.where(usable, length, 1.0)


def _brought_near(x: Tensor, iteration: PolarIteration, half: bool) -> Tensor:
    """Factors of matrices [n, k, m] of finite entries, k at most m; of one of zeros what it may be."""
    parts, rows = (iteration.polynomials,), x.shape[-2]
    if half:
        parts = iteration.polynomials[:_BEFORE_ANEW], iteration.polynomials[_BEFORE_ANEW:]
        # Singular values of one on average, so that no entry is too large or small for half precision.
        x = (x * (math.sqrt(rows) / _norm(x))).half()
    gram = x @ x.mT
    if iteration.by_trace:
        bound = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1, dtype=torch.float32)[..., None, None]
        gram = _over(gram, bound)
        square = gram @ gram
    else:
        size = _norm(gram) / math.sqrt(rows)
        gram = _over(gram, size)
        square = gram @ gram
        spread = _norm(square)
        gram, square, bound = _over(gram, spread.sqrt()), _over(square, spread), size * spread.sqrt()
    x = _applied(parts[0], gram, square, bound) @ x
    for part in parts[1:]:
        gram = x @ x.mT
        x = _applied(part, gram, gram @ gram, None) @ x
    return x.float()


def _applied(
    polynomials: tuple[tuple[float, float, float], ...], gram: Tensor, square: Tensor, bound: Tensor | None
) -> Tensor:
    """What a matrix is multiplied by to be brought through the polynomials, over the root of the bound."""
    root = None
    for number, (a, b, c) in enumerate(polynomials, start=1):
        step = torch.add(b * gram, square, alpha=c)
        step.diagonal(dim1=-2, dim2=-1).add_(a)
        root = step if root is None else root @ step
        if number < len(polynomials):
            gram = gram @ step @ step
            square = gram @ gram
    assert root is not None
    return root if bound is None else root * torch.where(bound > 0, bound, 1.0).rsqrt().to(root.dtype)


def _over(x: Tensor, size: Tensor) -> Tensor:
    return x / torch.where(size > 0, size, 1.0).to(x.dtype)  # of a matrix of zeros it is 0


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True, dtype=torch.float32)
