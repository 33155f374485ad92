"""Orthogonalised steps in PyTorch: `celo._kernels.orthogonal` has the mathematics."""

import torch
from torch import Tensor

from celo._definitions import LARGEST, POLAR, SMALLEST, PolarIteration


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
    tall = x.shape[-2] >= x.shape[-1]
    gram = scaled.mT @ scaled if tall else scaled @ scaled.mT
    inverse_root = _inverse_root(gram, iteration)
    found = scaled @ inverse_root if tall else inverse_root @ scaled
    length = _norm(scaled) / torch.where(usable, _norm(found), 1.0) * largest
    return torch.where(usable, found, x), torch.where(usable, length, 1.0)


def _inverse_root(gram: Tensor, iteration: PolarIteration) -> Tensor:
    """The polynomials' approximation of G^(-1/2), for [..., k, k]."""
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device)
    square = gram @ gram
    if iteration.by_trace:
        bound = gram.diagonal(dim1=-2, dim2=-1).sum(dim=-1)[..., None, None]
    else:
        bound = _norm(square).sqrt()
    bound = torch.where(bound > 0, bound, 1.0)  # of a matrix of zeros
    gram, square = gram / bound, square / bound**2
    root = None
    for number, (a, b, c) in enumerate(iteration.polynomials, start=1):
        factor = torch.add(a * identity + b * gram, square, alpha=c)
        root = factor if root is None else root @ factor
        if number < len(iteration.polynomials):
            gram = gram @ factor @ factor
            square = gram @ gram
    assert root is not None
    return root * bound.rsqrt()


def _norm(x: Tensor) -> Tensor:
    return torch.linalg.matrix_norm(x, keepdim=True)
